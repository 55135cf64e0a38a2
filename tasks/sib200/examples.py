"""Invented rows in the columns of this benchmark's data."""

from lm_eval_moe.multilingual.sib200 import CATEGORIES
from tools.multilingual.examples import texts


def rows(task, number):
    """Return sentences of one category after the other."""
    return {
        f"sib200/{task.file.format(split='test')}.jsonl": [
            {"index_id": index, "category": CATEGORIES[index % len(CATEGORIES)], **texts("text", index, number)}
            for index in range(number)
        ]
    }
