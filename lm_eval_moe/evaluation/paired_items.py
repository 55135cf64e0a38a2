"""Whether the documents of two tasks that pair by their keys are the same items."""

from __future__ import annotations

import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.harness.documents import gold_target
from lm_eval_moe.multilingual.numerals import readings
from lm_eval_moe.pairing import TaskPairing

__all__ = ["AnswerAgreement", "agreement", "check_unique", "gold_answer", "named_by", "warn_of_shuffles"]

_ENOUGH = 3
"""Fewer answers that differ are slips of a translation, not another order."""

_OF_CHANCE = 0.5
"""Documents in another order disagree as often as chance has it; half as often is taken for a part in another order."""

_ALIKE = 0.8
"""Texts are compared where so large a part of them is the same in both languages: otherwise they are translations."""


def check_unique(where: str, keys: Iterable[tuple[str, int]], fix: str) -> None:
    """Refuse a key that names two items.

    Args:
        where: The task or file.
        keys: Each item's key and its row.
        fix: What to do about it.

    Raises:
        UserError: There is one.
    """
    rows: dict[str, list[int]] = {}
    for key, row in keys:
        rows.setdefault(key, []).append(row)
    repeated = {key: places for key, places in rows.items() if len(places) > 1}
    if repeated:
        key, places = next(iter(repeated.items()))
        more = f", and so do {len(repeated) - 1} other keys" if len(repeated) > 1 else ""
        raise UserError(
            f"the key {key!r} names several items, those in rows {', '.join(map(str, sorted(places)[:5]))}{more}: "
            "it is unclear which of them pairs with another language's item",
            fix=fix,
            where=where,
        )


def gold_answer(task: Any, doc: Any) -> str | None:
    """Return a document's right answer as text that is the same in every language where the answer is.

    Numbers are spelt the same whatever their digits and separators, choices are their index. None where there is none,
    as for texts that are only scored.
    """
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return None
    gold = gold_target(task, doc)
    if gold is None:
        return None
    text = " ".join(unicodedata.normalize("NFKC", str(gold)).casefold().split())
    numbers = _numbers(text)
    return str(max(numbers)) if numbers else text


@dataclass(frozen=True)
class AnswerAgreement:
    """How far the answers of two tasks agree.

    Attributes:
        documents: Documents that both have.
        agreeing: Those with the same answer.
        by_chance: Those that would agree if the rows of one were in random order, on average.
        alike: The part of the answers that is the same whatever their order, between 0 and 1.
        numbers: Whether all answers are numbers, which are the same in every language.
    """

    documents: int
    agreeing: int
    by_chance: float
    alike: float
    numbers: bool

    @property
    def shuffled(self) -> bool:
        """Whether the rows are likely to be in another order."""
        if not self.numbers and self.alike < _ALIKE:
            return False
        differing = self.documents - self.agreeing
        return differing >= _ENOUGH and differing >= _OF_CHANCE * (self.documents - self.by_chance)


def agreement(one: Mapping[str, str | None], other: Mapping[str, str | None]) -> AnswerAgreement:
    """Compare the answers of two tasks by key; documents without an answer are left out."""
    pairs = [(a, b) for key, a in one.items() if a is not None and (b := other.get(key)) is not None]
    ours, theirs = (Counter(answers) for answers in zip(*pairs, strict=True)) if pairs else (Counter(), Counter())
    total = len(pairs)
    return AnswerAgreement(
        documents=total,
        agreeing=sum(a == b for a, b in pairs),
        by_chance=sum(count * theirs[answer] for answer, count in ours.items()) / total if total else 0.0,
        alike=(ours & theirs).total() / total if total else 0.0,
        numbers=all(_numbers(answer) for answer in [*ours, *theirs]),
    )


def warn_of_shuffles(
    pairing: TaskPairing,
    answers: Mapping[str, str | None],
    tasks: Sequence[tuple[TaskPairing, Mapping[str, str | None]]],
    reference: str,
) -> None:
    """Warn where a task whose keys are places in its file holds other items there than one that it is compared with.

    Args:
        pairing: The task.
        answers: Its right answers by key.
        tasks: The tasks before it, with theirs.
        reference: Canonical tag of the language that the others are compared with.
    """
    for pairing_of, theirs in tasks:
        if pairing_of.benchmark != pairing.benchmark or (pairing.language == reference) == (
            pairing_of.language == reference
        ):
            continue
        language, english = (pairing_of, pairing) if pairing.language == reference else (pairing, pairing_of)
        result = agreement(answers, theirs)
        if result.shuffled:
            warnings.warn(
                f"{language.task} and {english.task} are paired by {named_by(pairing)}, but only {result.agreeing} of "
                f"{result.documents} right answers agree ({result.by_chance:.0f} would in random order): they seem to "
                "be in different orders, so that routing divergence compares different items. Put the files into the "
                "same order, or name a field in metadata.routing.item that identifies an item",
                RoutingWarning,
                stacklevel=2,
            )


def named_by(pairing: TaskPairing) -> str:
    """Return what names a task's items."""
    return "row" if pairing.item is None else " and ".join(pairing.item)


def _numbers(text: str) -> Collection[Any]:
    return () if any(char.isalpha() for char in text) else readings(text)
