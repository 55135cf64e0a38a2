"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import texts


def rows(task, number):
    """Return the English sentences and those of the task's language."""
    return {
        f"flores/{file}.jsonl": [{"id": index, **texts(text, index, number)} for index in range(number)]
        for file, text in (("en", "text"), (task.file, "text"))
    }
