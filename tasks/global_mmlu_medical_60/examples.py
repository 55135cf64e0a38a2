"""Invented rows in the columns of this benchmark's data."""

from tools.multilingual.examples import mmlu_row


def rows(task, number):
    """Return questions of every subject, as many as the task takes of each."""
    questions = [
        mmlu_row(index, number, subject=subject, sample_id=f"{subject}/test/{index}")
        for subject in task.strings["subjects"]
        for index in range(max(number, task.strings["questions"]))
    ]
    return {f"global_mmlu_medical_60/{task.file}.{split}.jsonl": questions for split in ("test", "dev")}
