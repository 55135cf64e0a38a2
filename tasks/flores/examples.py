"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import per_language, texts

rows = per_language("flores/{file}.jsonl", lambda task, index, number: {"id": index, **texts("text", index, number)})
