"""What makes this repository's files: the demo model, the task files and the pages about them. Not installed."""
