"""What runs models: one folder for each engine, and what all of them share.

A folder here that holds a ``model.py`` is a backend: its ``__init__`` registers the name of its model class.
"""
