"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import per_language, texts


def _row(task, index, number):
    return {**texts("question", index, number), "answer_number": index + 1}


rows = per_language("mgsm/{file}.jsonl", _row)
