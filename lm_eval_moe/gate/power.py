"""How large a drop the gate catches, and how often, before any candidate is evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_moe.gate.policy import Margins, Policy
from lm_eval_moe.statistics.power import (
    changed_shares,
    mean_power,
    mean_stderr,
    paired_power,
    smallest_found,
    smoothed_share,
)

__all__ = [
    "BETWEEN",
    "CORRELATION",
    "DROPS",
    "WANTED",
    "Planned",
    "PowerRow",
    "change_variance",
    "power_rows",
    "tests_of",
]

CORRELATION = 0.5
"""Assumed of two runs' answers to the same item where nothing better is known. Real ones are usually closer."""

BETWEEN = 0.1
"""Assumed of one item's differences in two languages where there is no baseline to tell."""

DROPS = (0.01, 0.02, 0.03, 0.05, 0.1)
WANTED = 0.8


@dataclass(frozen=True)
class Planned:
    """A language's score that the gate will judge.

    Attributes:
        benchmark: The benchmark.
        language: The language; None for a task without one.
        items: How many items.
        score: The baseline's score.
        is_share: Whether the score is a share of items, told in per cent.
        right_or_wrong: Whether each item scores 0 or 1.
        spread: Standard deviation of the items' scores.
        shared: Whether the benchmark's languages have the same items, by name.
        correlation: Of two runs' scores of the same item.
    """

    benchmark: str
    language: str | None
    items: int
    score: float
    is_share: bool
    right_or_wrong: bool
    spread: float
    shared: bool
    correlation: float


@dataclass(frozen=True)
class PowerRow:
    """One test of the gate.

    Attributes:
        benchmark: The benchmark.
        name: The language, or ``macro``.
        items: Items; of ``macro`` all languages' together.
        score: The baseline's score.
        margin: How much may be lost.
        drops: Drops in the score's units.
        chances: How often each is caught; None for a drop that the score leaves no room for.
        smallest: The smallest drop that is caught in 80 of 100 runs; None if none is.
        is_share: Whether the score is a share.
    """

    benchmark: str
    name: str
    items: int
    score: float
    margin: float
    drops: tuple[float, ...]
    chances: tuple[float | None, ...]
    smallest: float | None
    is_share: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the row, JSON-ready."""
        return dict(vars(self))


def change_variance(planned: Planned, drop: float = 0.0, *, smoothed: bool = False) -> float:
    """Return the variance of the per-item difference of two runs whose scores differ by ``drop``."""
    if not planned.right_or_wrong:
        return 2 * planned.spread**2 * (1 - planned.correlation)
    share = smoothed_share(planned.score * planned.items, planned.items) if smoothed else planned.score
    worse, better = changed_shares(share, min(drop, share), planned.correlation)
    return worse + better - (worse - better) ** 2


def tests_of(policy: Policy, planned: Sequence[Planned]) -> int:
    """Return how many tests the gate corrects for: a language each, and an average a benchmark."""
    judged = [entry for entry in planned if policy.of(entry.benchmark) is not None]
    averages = sum(
        sum(entry.benchmark == benchmark and entry.language is not None for entry in judged) > 1
        for benchmark in {entry.benchmark for entry in judged}
    )
    return len(judged) + averages


def power_rows(
    policy: Policy, planned: Sequence[Planned], *, tests: int, between: float, drops: Sequence[float] = DROPS
) -> list[PowerRow]:
    """Return how often each drop is caught: of one language alone, and of all languages of a benchmark at once.

    Args:
        policy: The policy.
        planned: The languages.
        tests: How many tests the gate corrects for. With Holm's method the first rejection needs p < alpha / tests.
        between: Correlation of the differences of one item in two languages.
        drops: In units of a share; for scores that are none, in shares of the baseline's score.
    """
    alpha = policy.alpha / (1 if policy.correction == "none" else max(tests, 1))
    rows = []
    for benchmark in dict.fromkeys(entry.benchmark for entry in planned):
        margins = (policy.of(benchmark) or policy.default).margins
        entries = [entry for entry in planned if entry.benchmark == benchmark]
        rows += [_language_row(policy, margins, entry, alpha, drops) for entry in entries]
        averaged = [entry for entry in entries if entry.language is not None]
        if len(averaged) > 1:
            rows.append(_macro_row(policy, margins, averaged, alpha, between, drops))
    return rows


def _language_row(policy: Policy, margins: Margins, planned: Planned, alpha: float, drops: Sequence[float]) -> PowerRow:
    margin = margins.of_language(planned.language).of(planned.score)
    tested: dict[str, Any] = {"alpha": alpha, "margin": margin, "beyond_margin": policy.test == "margin"}

    def power(drop: float) -> float:
        if planned.right_or_wrong:
            return paired_power(planned.score, planned.items, drop, correlation=planned.correlation, **tested)
        return mean_power(drop, math.sqrt(change_variance(planned) / planned.items), **tested)

    return _row(planned, planned.language or "score", planned.items, planned.score, margin, power, drops)


def _macro_row(
    policy: Policy, margins: Margins, entries: Sequence[Planned], alpha: float, between: float, drops: Sequence[float]
) -> PowerRow:
    score = math.fsum(entry.score for entry in entries) / len(entries)
    margin = margins.macro.of(score)
    shared = all(entry.shared for entry in entries)

    def power(drop: float) -> float:
        variances = [change_variance(entry, drop) for entry in entries]
        # Without names the gate takes the error as large as it can be: as if all differences went together.
        stderr = mean_stderr(variances, [entry.items for entry in entries], between if shared else 1.0)
        return mean_power(drop, stderr, alpha=alpha, margin=margin, beyond_margin=policy.test == "margin")

    return _row(entries[0], "macro", sum(entry.items for entry in entries), score, margin, power, drops)


def _row(
    like: Planned,
    name: str,
    items: int,
    score: float,
    margin: float,
    power: Callable[[float], float],
    drops: Sequence[float],
) -> PowerRow:
    sizes = tuple(drops) if like.is_share else tuple(drop * abs(score) for drop in drops)
    largest = score if like.is_share else abs(score)
    return PowerRow(
        benchmark=like.benchmark,
        name=name,
        items=items,
        score=score,
        margin=margin,
        drops=sizes,
        chances=tuple(power(size) if size <= largest + 1e-12 else None for size in sizes),
        smallest=smallest_found(power, probability=WANTED, largest=largest) if largest > 0 else None,
        is_share=like.is_share,
    )
