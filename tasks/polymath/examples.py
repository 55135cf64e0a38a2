"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import per_language, texts


def _row(task, index, number):
    name = {"id": f"{task.variant}-{task.config}-{index}"}
    return {**name, **texts("question", index, number), "answer": str(index + 1)}


rows = per_language("polymath/{file}.{variant}.jsonl", _row)
