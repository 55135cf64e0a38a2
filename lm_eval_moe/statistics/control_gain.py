"""The gain of chosen experts over randomly drawn ones, with an interval that covers the items and the draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_eval_moe.statistics.differences import ClusteredValues, Difference
from lm_eval_moe.statistics.judgement import ALPHA, Interval, agreeing_interval, is_beyond_chance, judge
from lm_eval_moe.statistics.paired_tests import paired_test

__all__ = ["ControlGain", "gain_over_controls", "same_items"]

Values = Mapping[Any, float]
"""One language's value of every item."""


@dataclass(frozen=True)
class ControlGain:
    """How much a steered run is above its random controls.

    Attributes:
        steered: The steered run's mean.
        per_control: The mean of every control.
        gain: Steered less the mean of the controls.
        stderr: Its standard error; None for fewer than two items.
        low: Lower end of the 95 % interval; None where it is not known, and where no item differs: an interval of no
            width would claim certainty.
        high: Its upper end.
        covers_draws: Whether the interval covers another draw of experts, which one control cannot tell.
    """

    steered: float
    per_control: tuple[float, ...]
    gain: float
    stderr: float | None
    low: float | None
    high: float | None
    covers_draws: bool

    @property
    def identical(self) -> bool:
        """Whether not one item differs from the controls."""
        return self.low is None and self.stderr == 0

    @property
    def beyond(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def gain_over_controls(steered: Sequence[Values], controls: Sequence[Sequence[Values]]) -> ControlGain:
    """Compare a steered run with random controls on the same items.

    One control is a run like any other: the pair is judged as `judge` does. Of several controls, items and draws are
    both samples. With ``d[i, j]`` the steered less the j-th control's value of item i, the variance of the mean
    difference is taken as ``var_i(mean_j d) / n + var_j(mean_i d) / N``: an item's noise is counted in
    both terms, so the interval is rather too wide than too narrow. Several languages are averaged with equal weight,
    and an item's languages are one cluster. The interval is Student's t with the degrees of freedom of Satterthwaite.
    It leaves out 0 only if the test of the items' differences does, too: that matters where few of them differ.

    Args:
        steered: One mapping a language, values by item.
        controls: For every control the same, with the same languages and items.

    Raises:
        ValueError: There is no control, or its items are others.
    """
    if not controls or not same_items([steered, *controls]):
        raise ValueError("controls need the items of the steered run")
    mean, *per_control = [_mean(run) for run in (steered, *controls)]
    changes = ClusteredValues.of([_less(of, [run[place] for run in controls]) for place, of in enumerate(steered)])
    difference, draws = changes.difference(), len(controls)
    stderr, interval = difference.stderr, None
    if draws == 1:
        interval = judge(changes).interval
    elif difference.stderr is not None and not (difference.changed == 0 and len(set(per_control)) == 1):
        among = float(np.var(per_control, ddof=1)) / draws
        stderr, interval = _with_draws(changes, difference, among, draws)
    low, high = interval or (None, None)
    return ControlGain(mean, tuple(per_control), difference.value, stderr, low, high, draws > 1)


def _with_draws(
    changes: ClusteredValues, difference: Difference, among: float, draws: int
) -> tuple[float, Interval | None]:
    """Return the standard error and the interval that cover the draws, too."""
    items, item_freedom = (difference.stderr or 0.0) ** 2, (difference.clusters or 1) - 1
    stderr = math.sqrt(items + among)
    half = _t(items, item_freedom, among, draws - 1) * stderr
    interval = difference.value - half, difference.value + half
    if interval[0] <= 0 <= interval[1] or is_beyond_chance((test := paired_test(changes)).p, ALPHA):
        return stderr, interval
    return stderr, agreeing_interval(interval, changes, test, ALPHA / 2)


def same_items(runs: Sequence[Sequence[Values]]) -> bool:
    """Whether all runs have the same items in every language."""
    return all([language.keys() for language in run] == [language.keys() for language in runs[0]] for run in runs)


def _less(steered: Values, controls: Sequence[Values]) -> list[tuple[Any, float]]:
    """Return each item's value less the mean of the controls' ones; exactly 0 where all are the same."""
    return [(item, math.fsum(value - run[item] for run in controls) / len(controls)) for item, value in steered.items()]


def _mean(languages: Sequence[Values]) -> float:
    return math.fsum(math.fsum(values.values()) / len(values) for values in languages) / len(languages)


def _t(items: float, item_freedom: int, among: float, draw_freedom: int) -> float:
    """Return the 97.5 % quantile of t with the degrees of freedom that two added variances have."""
    from scipy.stats import t

    if items + among == 0:
        return 0.0
    below = items**2 / item_freedom + (among**2 / draw_freedom if draw_freedom else 0.0)
    return float(t.ppf(0.975, (items + among) ** 2 / below))
