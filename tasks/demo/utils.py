"""Data of the demo tasks, generated when a task is loaded: nothing is downloaded and nothing is read."""

from __future__ import annotations

from typing import Any

import datasets

from lm_eval_moe.demo_model.data import evaluation_problems, evaluation_sentences


def load_problems(*, routing: dict[str, str], **_: Any) -> datasets.DatasetDict:
    """Return the arithmetic problems of ``routing["language"]``; the harness passes a task's metadata.

    The ``test`` split is the evaluation split, ``validation`` the development split (for few-shot examples).
    """
    code = routing["language"]

    def split(name: Any) -> datasets.Dataset:
        return datasets.Dataset.from_list(
            [
                {
                    "item_id": problem.item_id,
                    "kind": problem.kind,
                    "prompt": problem.prompt(code),
                    "choices": [str(option) for option in options],
                    "gold": options.index(problem.answer),
                    "answer": str(problem.answer),
                }
                for problem, options in evaluation_problems(name)
            ]
        )

    return datasets.DatasetDict(test=split("evaluation"), validation=split("development"))


def load_sentences(*, routing: dict[str, str], **_: Any) -> datasets.DatasetDict:
    """Return the plain sentences of ``routing["language"]``."""
    code = routing["language"]
    rows = [{"item_id": sentence.item_id, "text": sentence.text(code)} for sentence in evaluation_sentences()]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))
