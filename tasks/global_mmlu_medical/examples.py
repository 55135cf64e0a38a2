"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import mmlu_row, splits_by

_SUBJECTS = (
    *("clinical_knowledge", "college_medicine", "human_aging", "medical_genetics", "nutrition"),
    *("professional_medicine", "virology"),
)

rows = splits_by("subject", _SUBJECTS, "test dev", mmlu_row)
