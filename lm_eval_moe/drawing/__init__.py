"""What the pictures of all commands have in common: colours, canvas, heat maps, and how they become files."""
