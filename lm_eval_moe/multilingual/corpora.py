"""Loading the routing corpora: text in many languages, with what names an item, and nothing to score.

Each loader is called by lm-eval with a task's metadata (``moe`` is what the manifest says of the language) and returns
one split, ``test``, with the text in the column ``text``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.documents import as_test
from lm_eval_moe.multilingual.local_data import BENCH_DIR_VARIABLE, rows_of

if TYPE_CHECKING:
    import datasets

__all__ = ["load_belebele_passages", "load_flores", "load_gsm8k_instruct", "load_medinstruct", "load_ntrex"]


def load_flores(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return FLORES+'s devtest sentences of one language; ``id`` names a sentence in all languages."""
    rows = rows_of(moe, "devtest", ("id", "text"), bench_dir=bench_dir)
    return as_test([{"id": id_, "text": text} for id_, text in zip(rows["id"], rows["text"], strict=True)])


def load_belebele_passages(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return Belebele's passages, each link once: of its questions' passages that of the first."""
    rows = rows_of(moe, "test", ("link", "question_number", "flores_passage"), bench_dir=bench_dir)
    passages: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: (row["link"], row["question_number"])):
        passages.setdefault(row["link"], row["flores_passage"])
    return as_test([{"link": link, "text": text} for link, text in passages.items()])


def load_ntrex(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return NTREX-128's sentences of one language. ``item_id`` is the line, ``ntrex-0000`` the first."""
    rows = rows_of(moe, "test", ("text",), bench_dir=bench_dir)
    lines = rows["idx"] if "idx" in rows.column_names else range(len(rows))
    return as_test(
        [{"item_id": f"ntrex-{line:04d}", "text": text} for line, text in zip(lines, rows["text"], strict=True)]
    )


def load_medinstruct(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return medical instructions (English) with their input, where they have one, and answer."""
    rows = rows_of(moe, "train", ("instruction", "input", "output"), bench_dir=bench_dir)

    def joined(row: Mapping[str, str]) -> str:
        parts = [row["instruction"], "" if row["input"] == "<noinput>" else row["input"], row["output"]]
        return "\n".join(part.strip() for part in parts if part and part.strip())

    return as_test([{"text": joined(row)} for row in rows])


def load_gsm8k_instruct(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return GSM8K's training problems and worked answers in one of ten languages.

    ``item_id`` is the place of the problem's English row among the English rows.
    """
    problems = _parallel_problems(_frozen(moe), bench_dir, os.environ.get(BENCH_DIR_VARIABLE))
    spelled = moe["strings"]["spelled"]
    return as_test(
        [
            {
                "item_id": f"gsm8k-{number:04d}",
                "text": f"{rows[spelled][0]}\n{rows[spelled][1]}",
                "question": rows[spelled][0],
                "answer": rows[spelled][1],
            }
            for number, rows in problems.items()
        ]
    )


# ---------------------------------------------------------------------- GSM8K-Instruct: one file for all languages

_LANGUAGES = ("Bengali", "Chinese", "English", "French", "German", "Japanese", "Russian", "Spanish", "Swahili", "Thai")
_REFERENCE = "English"
_LANGUAGE = re.compile(r"(?:request|answer) in (\w+)")
_QUESTION = re.compile(r"### Instruction:\s*(.*?)\s*### Response:", re.DOTALL)
_FINAL_NUMBER = re.compile(r"(\d[\d.,]*)\D*$")
_MOST_DISAGREEING = (
    0.05  # translated answers round and spell numbers differently; rows out of step disagree nearly always
)

Problem = dict[str, tuple[str, str]]  # language as the prompt spells it -> question, answer


def _frozen(moe: Mapping[str, Any]) -> tuple[tuple[str, str | None], ...]:
    """What the file depends on, whatever the language."""
    return tuple((key, moe.get(key)) for key in ("benchmark", "file", "dataset", "config", "revision"))


@lru_cache(maxsize=1)
def _parallel_problems(
    source: tuple[tuple[str, str | None], ...], folder: str | None, environment: str | None
) -> dict[int, Problem]:
    """Return the problems that all languages have, by the place of their English row.

    The rows of one problem follow its English row, as lucasbandarkar/xl_moe_alignment reads them. They are read once
    for all languages; ``environment`` is only there to read them again when the folder that it names changes.

    Raises:
        UserError: A prompt cannot be read, or answers differ so often that the rows cannot be of the same problems.
    """
    moe = dict(source)
    where = str(moe["dataset"])
    problems: list[Problem] = []
    for number, row in enumerate(rows_of(moe, "train", ("prompt", "chosen"), bench_dir=folder)):
        language_match, question = _LANGUAGE.search(row["prompt"]), _QUESTION.search(row["prompt"])
        if language_match is None or question is None:
            raise UserError(
                f"the prompt of row {number} names no language or has no question: {row['prompt'][:80]!r}",
                fix="expected '... completes the request in Swahili. ... ### Instruction: <question> ### Response:'",
                where=where,
            )
        if language_match[1] == _REFERENCE:
            problems.append({})
        if problems and language_match[1] in _LANGUAGES:
            problems[-1].setdefault(language_match[1], (question[1], row["chosen"].strip()))
    complete = {number: rows for number, rows in enumerate(problems) if len(rows) == len(_LANGUAGES)}
    if not complete:
        raise UserError(
            f"none of {len(problems)} problems is in all of {', '.join(_LANGUAGES)}",
            fix="expected the rows of one problem after its English row",
            where=where,
        )
    for language in _LANGUAGES:
        wrong = [number for number, rows in complete.items() if _disagree(rows[_REFERENCE][1], rows[language][1])]
        if len(wrong) > _MOST_DISAGREEING * len(complete):
            raise UserError(
                f"{len(wrong)} of {len(complete)} answers in {language} end in a different number than in {_REFERENCE} "
                f"(the first is problem {wrong[0]}), so the rows do not belong to the same problems",
                fix="expected the rows of one problem after its English row",
                where=where,
            )
    return complete


def _disagree(a: str, b: str) -> bool:
    """Whether both answers end in a number, and not in the same."""
    numbers = [re.sub(r"[.,]", "", number[1]) for text in (a, b) if (number := _FINAL_NUMBER.search(text))]
    return len(numbers) == 2 and int(numbers[0]) != int(numbers[1])
