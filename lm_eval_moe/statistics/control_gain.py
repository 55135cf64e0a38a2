"""The gain of chosen experts over randomly drawn ones: over their mean, and over a new draw.

| question | answer |
|---|---|
| Do the chosen experts differ from the *mean* of random sets? | ``low`` to ``high``, the interval of the mean |
| Are they better than *a* random set? | ``new_draw_low`` to ``new_draw_high``, a prediction interval; ``rank_p`` |

A claim for the experts needs the second: chosen experts that are one more random draw differ from the mean of many
draws as well, and the more surely the more draws there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lm_eval_moe.statistics.differences import ClusteredValues
from lm_eval_moe.statistics.judgement import ALPHA, Interval, agreeing_interval, half_width, is_beyond_chance, judge
from lm_eval_moe.statistics.multiplicity import holm
from lm_eval_moe.statistics.paired_tests import PairedTest, paired_test

__all__ = [
    *("ControlGain", "corrected_new_draws", "draws_needed"),
    *("gain_over_controls", "gain_over_means", "mean_gain", "same_items"),
]

Values = Mapping[Any, float]
"""One language's value of every item."""

_TIE = 1e-9  # scores that differ by less are equal: means of the same scores may differ in the last bits


@dataclass(frozen=True)
class ControlGain:
    """How much a steered run is above its random controls.

    Attributes:
        steered: The steered run's mean.
        per_control: The mean of every control.
        gain: Steered less the mean of the controls.
        stderr: Its standard error as a difference from the mean of all draws; None for fewer than two items.
        low: Lower end of the 95 % interval of the difference from the mean of random sets; None where it is not known,
            and where no item differs: an interval of no width would claim certainty.
        high: Its upper end.
        covers_draws: Whether that interval covers another draw of experts, which one control cannot tell.
        new_draw_low: Lower end of the 95 % prediction interval of the difference from a new random draw; None as above,
            and of one control.
        new_draw_high: Its upper end.
        new_draw_p: Two-sided p of the same: below 5 % exactly if the prediction interval leaves out 0.
        rank_p: ``(1 + draws at least as good) / (draws + 1)``: how likely so good a rank is if the chosen set is one
            more random draw; None without draws.
        least_rank_p: The least that so many draws can give, ``1 / (draws + 1)``.
    """

    steered: float
    per_control: tuple[float, ...]
    gain: float
    stderr: float | None
    low: float | None
    high: float | None
    covers_draws: bool
    new_draw_low: float | None = None
    new_draw_high: float | None = None
    new_draw_p: float | None = None
    rank_p: float | None = None
    least_rank_p: float | None = None

    @property
    def identical(self) -> bool:
        """Whether not one item differs from the controls."""
        return self.low is None and self.stderr == 0

    @property
    def differs_from_mean(self) -> bool:
        """Whether the interval of the mean leaves out 0: says nothing of the choice of experts by itself."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    @property
    def differs_from_draw(self) -> bool:
        """Whether the prediction interval leaves out 0: what a claim for the experts rests on."""
        return is_beyond_chance(self.new_draw_p, ALPHA)


def draws_needed(alpha: float = ALPHA) -> int:
    """Return how many draws there have to be for a rank p of ``alpha``: 19 for 5 %."""
    return math.ceil(1 / alpha - 1e-9) - 1


def gain_over_controls(
    steered: Sequence[Values], controls: Sequence[Sequence[Values]], *, higher_is_better: bool = True
) -> ControlGain:
    """Compare a steered run with random controls on the same items.

    With N draws whose means have the variance ``S``, the half-width at the level ``1 - alpha`` is the root of
    ``k S t(N - 1)^2 + I t(n - 1)^2``, with k = 1 / N for the mean of random sets, k = 1 + 1 / N for a new draw, and t
    the quantiles of Student's distribution. ``S`` holds the draws' own item noise; ``I`` is what the items add to it:
    with ``d[i, j]`` the steered less the j-th control's value of item i, ``var_i(mean_j d) / n`` less ``k M / n``, M
    the variance over items of what each draw has for itself. Such a sum of two estimated variances, each with its own
    t, covers at least ``1 - alpha`` however they compare (S. K. Banerjee, Approximate confidence interval for
    linear functions of means of k populations when the population variances are not equal, Sankhya 22, 1960). If the
    chosen set is itself one more random draw, I is about 0 and the interval of a new draw exact for normal means.

    Several languages are averaged with equal weight, and an item's languages are one cluster. An interval leaves out 0
    only if the test of the items' differences does, too: that matters where few of them differ. One control is a run
    like any other: the pair is judged as `judge` does, and says nothing of new draws.

    Args:
        steered: One mapping a language, values by item.
        controls: For every control the same, with the same languages and items.
        higher_is_better: The values' direction, for the rank.

    Raises:
        ValueError: There is no control, or its items are others.
    """
    if not controls or not same_items([steered, *controls]):
        raise ValueError("controls need the items of the steered run")
    mean, *per_control = [_mean(run) for run in (steered, *controls)]
    steered_values = ClusteredValues.of([list(values.items()) for values in steered])
    control_values = np.array([[run[lang][item] for lang, of in enumerate(steered) for item in of] for run in controls])
    changes = replace(steered_values, values=(steered_values.values - control_values).sum(axis=0) / len(controls))
    difference = changes.difference()
    means = _means_only(mean, per_control, difference.value, higher_is_better)
    if difference.stderr is None:
        return means
    if len(controls) == 1:
        low, high = judge(changes).interval or (None, None)
        return replace(means, stderr=difference.stderr, low=low, high=high)
    variances = [
        (replace(steered_values, values=run).mean().stderr or 0.0) ** 2
        for run in control_values - control_values.mean(axis=0)
    ]
    noise, items = math.fsum(variances) / (len(controls) - 1), difference.stderr**2
    return _with_draws(means, lambda k: max(items - k * noise, 0.0), (difference.clusters or 1) - 1, changes)


def gain_over_means(
    steered: float, per_control: Sequence[float], stderr: float | None, *, higher_is_better: bool = True
) -> ControlGain:
    """Return the gain of which only the means are known, and its standard error as `gain_over_controls` gives it.

    The intervals are those of `gain_over_controls` or wider, but for the tests of the items, which are not known.

    Args:
        steered: The steered run's mean.
        per_control: The controls' means; one says nothing of new draws.
        stderr: None: not known; then there are no intervals.
        higher_is_better: The values' direction, for the rank.
    """
    gain = steered - math.fsum(per_control) / len(per_control)
    means = replace(_means_only(steered, per_control, gain, higher_is_better), stderr=stderr)
    return means if stderr is None else _with_draws(means, lambda _: _items(means), None, None)


def mean_gain(gains: Sequence[ControlGain], *, higher_is_better: bool = True) -> ControlGain:
    """Return the mean over languages of gains over the same draws, of which the items are not known.

    The draws are the same in all languages: a set of experts that is good in one may be so in all. Items may be, too:
    what they add to the standard error is the mean of what they add in each language, as large as any dependence can
    make it.
    """
    steered = math.fsum(gain.steered for gain in gains) / len(gains)
    per_control = [math.fsum(means) / len(gains) for means in zip(*(gain.per_control for gain in gains), strict=True)]
    stderr = None
    if all(gain.stderr is not None for gain in gains):
        items = math.fsum(math.sqrt(_items(gain)) for gain in gains) / len(gains)
        stderr = math.hypot(items, math.sqrt(_spread(per_control) / len(per_control)))
    return gain_over_means(steered, per_control, stderr, higher_is_better=higher_is_better)


def corrected_new_draws(gains: Sequence[ControlGain]) -> list[float | None]:
    """Return the p of each gain over a new draw, corrected for the others by Holm's method; None where it has none."""
    adjusted = iter(holm([gain.new_draw_p for gain in gains if gain.new_draw_p is not None]))
    return [None if gain.new_draw_p is None else next(adjusted) for gain in gains]


def same_items(runs: Sequence[Sequence[Values]]) -> bool:
    """Whether all runs have the same items in every language."""
    return all([language.keys() for language in run] == [language.keys() for language in runs[0]] for run in runs)


def _mean(languages: Sequence[Values]) -> float:
    return math.fsum(math.fsum(values.values()) / len(values) for values in languages) / len(languages)


def _means_only(steered: float, per_control: Sequence[float], gain: float, higher_is_better: bool) -> ControlGain:
    """Return what the means tell: the gain and the rank."""
    sign, draws = 1 if higher_is_better else -1, len(per_control)
    as_good = sum(sign * (control_mean - steered) >= -_TIE * abs(steered) for control_mean in per_control)
    rank = {"rank_p": (1 + as_good) / (draws + 1), "least_rank_p": 1 / (draws + 1)}
    return ControlGain(steered, tuple(per_control), gain, None, None, None, draws > 1, **rank)


def _with_draws(
    means: ControlGain, items: Callable[[float], float], freedom: int | None, changes: ClusteredValues | None
) -> ControlGain:
    """Add the standard error and both intervals of several draws.

    Args:
        means: Means and rank.
        items: What the items add to k times the draws' variance.
        freedom: Degrees of freedom of that; None: many.
        changes: The items' differences, to agree with their test; None: not known.
    """
    spread, draws = _spread(means.per_control), len(means.per_control)
    parts = [((k * spread, draws - 1), (items(k), freedom)) for k in (1 / draws, 1 + 1 / draws)]
    stderr = math.sqrt(math.fsum(variance for variance, _ in parts[0]))
    means = replace(means, stderr=stderr)
    if stderr == 0 and (changes is None or not changes.values.any()):
        return means
    if draws == 1:
        half = _half(parts[0], ALPHA)
        return replace(means, low=means.gain - half, high=means.gain + half)
    # Nothing is known better of a new draw than of the mean of all.
    halves = [_half(parts[0], ALPHA), max(_half(part, ALPHA) for part in parts)]
    p = max(_p(part, abs(means.gain)) for part in parts)
    intervals = [(means.gain - half, means.gain + half) for half in halves]
    if changes is not None:
        test = paired_test(changes)
        p = max(p, test.p)
        if not is_beyond_chance(test.p, ALPHA):
            intervals = [_agreeing(interval, changes, test) for interval in intervals]
    (low, high), (new_low, new_high) = intervals
    return replace(means, low=low, high=high, new_draw_low=new_low, new_draw_high=new_high, new_draw_p=p)


def _agreeing(interval: Interval, changes: ClusteredValues, test: PairedTest) -> Interval:
    low, high = interval
    return interval if low <= 0 <= high else agreeing_interval(interval, changes, test, ALPHA / 2)


def _spread(per_control: Sequence[float]) -> float:
    return float(np.var(per_control, ddof=1)) if len(per_control) > 1 else 0.0


def _items(gain: ControlGain) -> float:
    """Return the part of a gain's variance that is not the draws'."""
    return max((gain.stderr or 0.0) ** 2 - _spread(gain.per_control) / len(gain.per_control), 0.0)


Parts = Sequence[tuple[float, int | None]]
"""Variances with the degrees of freedom that they are estimated with (None: many)."""


def _half(parts: Parts, alpha: float) -> float:
    """Return Banerjee's half-width."""
    there = [(math.sqrt(variance), freedom) for variance, freedom in parts if variance]
    return math.sqrt(math.fsum(half_width(alpha / 2, stderr, freedom) ** 2 for stderr, freedom in there))


def _p(parts: Parts, distance: float) -> float:
    """Return the level whose half-width is a distance, by bisection of its logarithm."""
    low, high = math.log(1e-15), 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _half(parts, math.exp(middle)) > distance else (low, middle)
    return math.exp(high)
