"""Is a difference between two runs beyond chance? The one place that says so.

| data | test | interval |
|---|---|---|
| right or wrong, one language, paired | McNemar's exact test | Tango's score interval |
| other paired values, averages over languages | sign-flip permutation test, clustered by item | score interval |
| nothing paired | normal, languages as dependent as they can be | normal |

Items whose translations are not known are told apart by language.

The score interval covers where few items changed, which an interval from the test alone does not. But it is another
approximation than the test, and may see 0 otherwise. Then the end next to 0 is that of the test itself, turned into a
bound: an interval leaves out 0 exactly if p is below its level.

Two purposes: *a difference* in either direction (`judge`, two-sided: leaderboards, reports), and *a drop*
(`paired_drop`, one-sided: the gate). A drop's p is half that of the difference, and its bound is an end of the interval
at twice the level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, TypeVar

from lm_eval_moe.statistics.differences import ClusteredValues, Difference, Estimate, Group, unpaired
from lm_eval_moe.statistics.multiplicity import holm
from lm_eval_moe.statistics.paired_tests import Method as PairedMethod
from lm_eval_moe.statistics.paired_tests import PairedTest, mcnemar_end, paired_test, sign_flip_end
from lm_eval_moe.statistics.score_bound import score_bounds
from lm_eval_moe.statistics.score_test import score_z

__all__ = [
    "ALPHA",
    "Drop",
    "Judgement",
    "agreeing_ends",
    "agreeing_interval",
    "corrected",
    "half_width",
    "is_beyond_chance",
    "judge",
    "judge_unpaired",
    "paired_drop",
    "unpaired_drop",
]

ALPHA = 0.05
"""The level where nothing else is said."""

Method = PairedMethod | Literal["normal, unpaired"]
DropMethod = PairedMethod | Literal["score", "t", "normal"]
Interval = tuple[float, float]


def is_beyond_chance(p: float | None, alpha: float) -> bool:
    """Whether a p-value is below its level."""
    return p is not None and p < alpha


@dataclass(frozen=True)
class Judgement:
    """A difference, and whether it is beyond chance.

    Attributes:
        difference: Value, standard error, and whether items were paired.
        alpha: Level of the test; the interval has the level ``1 - alpha``.
        interval: Of this difference by itself: it leaves out 0 exactly if ``p`` is below alpha. None without a standard
            error, and where no item changed: an interval of no width would claim certainty.
        p: Two-sided; None where nothing can be said.
        adjusted_p: The same, corrected for the other tests of its family; ``p`` for a test that stands alone.
        method: How p was found.
    """

    difference: Difference
    alpha: float
    interval: Interval | None
    p: float | None
    adjusted_p: float | None
    method: Method

    @property
    def beyond(self) -> bool:
        """Whether the difference is beyond chance, after correction."""
        return is_beyond_chance(self.adjusted_p, self.alpha)

    @property
    def verdict(self) -> Literal["identical", "noise", "beyond noise", "unknown"]:
        """The same in words."""
        if self.difference.changed == 0:
            return "identical"
        if self.p is None:
            return "unknown"
        return "beyond noise" if self.beyond else "noise"


AnyJudgement = TypeVar("AnyJudgement", bound=Judgement)


def judge(changes: ClusteredValues, alpha: float = ALPHA) -> Judgement:
    """Judge per-item differences (second run minus first; a group a language) in both directions."""
    difference, test = changes.difference(), paired_test(changes)
    interval = None if difference.changed == 0 else _interval(changes, difference, test, alpha / 2)
    return Judgement(difference, alpha, interval, test.p, test.p, test.method)


def judge_unpaired(difference: Difference, alpha: float = ALPHA) -> Judgement:
    """Judge a difference by its standard error alone, in both directions."""
    value, stderr = difference.value, difference.stderr
    if stderr is None:
        return Judgement(difference, alpha, None, None, None, "normal, unpaired")
    p, half = min(1.0, 2 * _worse_p(abs(value), stderr)), half_width(alpha / 2, stderr)
    interval = agreeing_ends(value - half, value + half, value, is_beyond_chance(p, alpha), 0.0)
    return Judgement(difference, alpha, interval, p, p, "normal, unpaired")


def corrected(family: Sequence[AnyJudgement]) -> list[AnyJudgement]:
    """Correct judgements for each other by Holm's method; those without a p are not tests."""
    tested = [number for number, judgement in enumerate(family) if judgement.p is not None]
    result = list(family)
    for number, p in zip(tested, holm([family[number].p or 0.0 for number in tested]), strict=True):
        result[number] = replace(family[number], adjusted_p=p)
    return result


def agreeing_interval(interval: Interval, changes: ClusteredValues, test: PairedTest, tail: float) -> Interval:
    """Return an interval of a mean of differences that sees 0 as their test does.

    Args:
        interval: Of another approximation than the test.
        changes: The differences.
        test: Their test.
        tail: Level of each end, that of a one-sided test.
    """
    value, beyond = changes.mean().value, test.p < 2 * tail
    if (interval[0] > 0 or interval[1] < 0) == beyond or value == 0:
        return interval
    if changes.turned is not None:
        better, worse = changes.turned
        end = mcnemar_end(max(better, worse), min(better, worse), len(changes.values), tail)
    else:
        upwards = changes if value > 0 else replace(changes, values=-changes.values)
        end = sign_flip_end(upwards, tail, beyond=beyond)
    return agreeing_ends(*interval, value, beyond, end)


def agreeing_ends(low: float, high: float, value: float, beyond: bool, end: float) -> Interval:
    """Return an interval whose end next to 0 is replaced, by one as far from 0, if it contradicts the test."""
    near, far = (low, high) if value >= 0 else (-high, -low)
    if (near > 0) != beyond:
        # Next to the level, rounding must not decide.
        near = max(end, 1e-9 * abs(value)) if beyond else min(end, 0.0)
    return (near, far) if value >= 0 else (-far, -near)


def _interval(changes: ClusteredValues, difference: Difference, test: PairedTest, tail: float) -> Interval | None:
    """Return the interval of which each end is a bound of the level ``1 - tail``."""
    if difference.stderr is None and changes.turned is None:
        return None
    return agreeing_interval(score_bounds(changes, tail), changes, test, tail)


@dataclass(frozen=True)
class Drop:
    """How much worse the second run is.

    Attributes:
        value: The drop seen, positive where the second run is worse.
        p: One-sided p of "the true drop is at most the tolerance"; None where it cannot be known.
        upper: Upper confidence bound of the drop at level 1 - alpha; None where it cannot be known.
        stderr: Standard error of the drop; None where it cannot be known.
        method: How p was found.
        worse: Values that fell; None if unpaired.
        better: Values that rose; None if unpaired.
    """

    value: float
    p: float | None
    upper: float | None
    stderr: float | None
    method: DropMethod
    worse: int | None = None
    better: int | None = None


def paired_drop(groups: Sequence[Group], *, alpha: float, tolerance: float = 0.0) -> Drop:
    """Judge per-item losses (positive: the second run is worse), a group a language, clustered by item.

    With a tolerance of 0 p is half of the two-sided p of `judge`. With another tolerance it is Tango's score test for
    right-or-wrong items of one language, otherwise a t-test over items.
    """
    losses = ClusteredValues.of(groups)
    difference, test = losses.difference(), paired_test(losses)
    value, stderr = difference.value, difference.stderr
    interval = _interval(losses, difference, test, alpha)
    method: DropMethod = test.method
    p: float | None = test.p / 2 if value > 0 else 1 - test.p / 2
    if tolerance and losses.turned is not None:
        method, p = "score", _worse_p(float(score_z(*losses.turned, len(losses.values), tolerance)), 1.0)
    elif tolerance:
        method = "t"
        p = None if stderr is None else _worse_p(value - tolerance, stderr, _freedom(difference))
    worse, better = int((losses.values > 0).sum()), int((losses.values < 0).sum())
    return Drop(value, p, interval and interval[1], stderr, method, worse, better)


def unpaired_drop(
    first: Sequence[Estimate], second: Sequence[Estimate], *, alpha: float, tolerance: float = 0.0, sign: int = 1
) -> Drop:
    """Judge two runs by their means and standard errors, as if they had answered different items.

    With a tolerance of 0 the p of a drop is half of the two-sided p of `judge_unpaired`.

    Args:
        first: The first run's means, one a language.
        second: The second run's.
        alpha: 1 - alpha is the level of the bound.
        tolerance: The drop that is tolerated.
        sign: 1 if higher is better, -1 if lower is.
    """
    difference = unpaired(first, second)
    value, stderr = -sign * difference.value, difference.stderr
    if stderr is None:
        return Drop(value, None, None, None, "normal")
    return Drop(value, _worse_p(value - tolerance, stderr), value + half_width(alpha, stderr), stderr, "normal")


def _worse_p(excess: float, stderr: float, freedom: int | None = None) -> float:
    """Return the one-sided p of an excess over what is tolerated: by t with these degrees of freedom, else normal."""
    if stderr == 0:
        return 0.0 if excess > 0 else 1.0
    if freedom is None:
        return 0.5 * math.erfc(excess / stderr / math.sqrt(2))
    from scipy import special  # takes a while to import

    return float(special.stdtr(freedom, -excess / stderr))


def half_width(tail: float, stderr: float, freedom: int | None = None) -> float:
    """Return how far a bound of the level ``1 - tail`` lies from its value: by t with these degrees of freedom, else
    normal.
    """
    if freedom is None:
        return -NormalDist().inv_cdf(tail) * stderr
    from scipy import special

    return -float(special.stdtrit(freedom, tail)) * stderr


def _freedom(difference: Difference) -> int:
    return (difference.clusters or 1) - 1
