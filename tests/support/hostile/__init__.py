"""Hostile documents, and what may become of them."""
