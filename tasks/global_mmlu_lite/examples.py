"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import mmlu_row, splits_by

_CATEGORIES = ("Business", "Humanities", "Medical", "Other", "STEM", "Social Sciences")

rows = splits_by("subject_category", _CATEGORIES, "test dev", mmlu_row)
