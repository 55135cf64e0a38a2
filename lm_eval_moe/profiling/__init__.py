"""Capture routing profiles of texts and task prompts, without scoring: one a language."""
