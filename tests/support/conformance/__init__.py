"""What is checked on every family, and what was found."""
