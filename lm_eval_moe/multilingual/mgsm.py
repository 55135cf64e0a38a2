"""MGSM with direct answers: its data, and how a number is found in an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.multilingual.local_data import has_local_file, rows_of
from lm_eval_moe.multilingual.numerals import last_number, same_number

if TYPE_CHECKING:
    import datasets

__all__ = ["last_numbers", "load", "score"]

_NO_NUMBER = "[invalid]"  # lm-eval's own filters say the same


def load(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return the problems of one language, ``test``, and its eight exemplars, ``train``.

    Columns: ``idx`` (the problem's number in every language), ``prompt`` and ``answer``. A folder of JSON lines need
    not have exemplars (``<file>.train.jsonl``); without them there is no few-shot prompt.

    Args:
        moe: What the manifest says of the language; its strings are ``question_word`` and ``answer_word``.
        bench_dir: Folder of JSON lines, see `lm_eval_moe.multilingual.local_data`.

    Raises:
        UserError: The data are not there or lack a column.
    """
    import datasets

    def rows(split: str, file: str) -> datasets.Dataset:
        problems = rows_of(moe, split, ("question", "answer_number"), bench_dir=bench_dir, file=file)
        return datasets.Dataset.from_list(
            [
                {
                    "idx": row.get("idx", index),  # the hub has none: problems are in one order in all languages
                    "prompt": _prompt(row["question"], moe["strings"]),
                    "answer": str(row["answer_number"]),
                }
                for index, row in enumerate(problems)
            ]
        )

    test, exemplars = rows("test", moe["file"]), f"{moe['file']}.train"
    has_exemplars = has_local_file(moe["benchmark"], exemplars, "train", bench_dir)
    return datasets.DatasetDict(test=test, train=rows("train", exemplars) if has_exemplars else test.select([]))


def _prompt(question: str, strings: Mapping[str, str]) -> str:
    # The exemplars have the question's word in front already, the problems do not.
    word = strings["question_word"]
    question = re.sub(rf"\A\s*{_as_written(word)}", "", question).strip()
    return f"{word} {question}\n{strings['answer_word']}"


def _as_written(word: str) -> str:
    """Return a regular expression for a word with its colon, whichever colon and whatever spaces are written."""
    letters = word.replace(" ", "").rstrip(":：")
    return rf"{re.escape(letters)}\s*[:：]"


def last_numbers(responses: Iterable[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the last number of every response: a filter function of lm-eval."""
    return [
        [last_number(response) or _NO_NUMBER for response in document_responses] for document_responses in responses
    ]


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether an extracted answer is the right number, whatever its digits and separators."""
    return {"exact_match": float(same_number(results[0], doc["answer"]))}
