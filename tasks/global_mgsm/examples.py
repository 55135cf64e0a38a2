"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import per_language, texts


def _row(task, index, number):
    words = {"instruction": "<instruction>", "answer_prefix": "<answer's word>"}
    return {**texts("question", index, number), "answer": str(index + 1), **words}


rows = per_language("global_mgsm/{file}.jsonl", _row)
