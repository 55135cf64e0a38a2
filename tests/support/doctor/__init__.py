"""Models for the doctor: healthy ones with their own code, and sabotaged ones."""
