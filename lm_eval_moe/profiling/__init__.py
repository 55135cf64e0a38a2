"""Routing profiles of texts and task prompts: capture without scoring, and looking at what was captured.

Reading, merging and comparing profiles needs no torch; only capturing loads a model.
"""
