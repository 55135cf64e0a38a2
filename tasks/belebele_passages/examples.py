"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import per_language, texts


def _row(task, index, number):
    return {"link": f"https://example.org/{index}", "question_number": 1, **texts("flores_passage", index, number)}


rows = per_language("belebele_passages/{file}.jsonl", _row)
