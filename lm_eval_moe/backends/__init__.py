"""What runs models: one folder for each engine, and what all of them share."""
