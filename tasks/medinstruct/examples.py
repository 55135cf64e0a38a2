"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import per_language, texts

rows = per_language(
    "medinstruct/{file}.jsonl", lambda task, index, number: texts("instruction input output", index, number)
)
