"""The gain of chosen experts over randomly drawn ones, with an interval that covers the items and the draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_eval_moe.statistics.differences import ClusteredValues
from lm_eval_moe.statistics.judgement import ALPHA, agreeing_interval, is_beyond_chance
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
        low: Lower end of the 95 % interval; None without a standard error.
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
    def beyond(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def gain_over_controls(steered: Sequence[Values], controls: Sequence[Sequence[Values]]) -> ControlGain:
    """Compare a steered run with random controls on the same items.

    Items and draws are both samples. With ``d[i, j]`` the steered less the j-th control's value of item i, the variance
    of the mean difference is taken as ``var_i(mean_j d) / n + var_j(mean_i d) / N``: an item's noise is counted in
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
    means = [_mean(run) for run in (steered, *controls)]
    per_control = means[1:]
    gain = means[0] - math.fsum(per_control) / len(per_control)
    changes = ClusteredValues.of([_less(of, [run[place] for run in controls]) for place, of in enumerate(steered)])
    difference, draws = changes.difference(), len(controls)
    if difference.stderr is None or difference.clusters is None:
        return ControlGain(means[0], tuple(per_control), gain, None, None, None, draws > 1)
    items = difference.stderr**2
    among = float(np.var(per_control, ddof=1)) / draws if draws > 1 else 0.0
    stderr = math.sqrt(items + among)
    half = _t(items, difference.clusters - 1, among, draws - 1) * stderr
    low, high = gain - half, gain + half
    if (low > 0 or high < 0) and not is_beyond_chance((test := paired_test(changes)).p, ALPHA):
        low, high = agreeing_interval((low, high), changes, test, ALPHA / 2)
    return ControlGain(means[0], tuple(per_control), gain, stderr, low, high, draws > 1)


def same_items(runs: Sequence[Sequence[Values]]) -> bool:
    """Whether all runs have the same items in every language."""
    return all([language.keys() for language in run] == [language.keys() for language in runs[0]] for run in runs)


def _less(steered: Values, controls: Sequence[Values]) -> list[tuple[Any, float]]:
    """Return each item's value less the mean of the controls' ones."""
    return [(item, value - math.fsum(run[item] for run in controls) / len(controls)) for item, value in steered.items()]


def _mean(languages: Sequence[Values]) -> float:
    return math.fsum(math.fsum(values.values()) / len(values) for values in languages) / len(languages)


def _t(items: float, item_freedom: int, among: float, draw_freedom: int) -> float:
    """Return the 97.5 % quantile of t with the degrees of freedom that two added variances have."""
    from scipy.stats import t

    if items + among == 0:
        return 0.0
    below = items**2 / item_freedom + (among**2 / draw_freedom if draw_freedom else 0.0)
    return float(t.ppf(0.975, (items + among) ** 2 / below))
