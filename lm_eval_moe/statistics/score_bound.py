"""Bounds of a mean that hold where few of many values differ from 0: Tango's score bound of any values.

A standard error of few changed items knows nothing of the changes that were not seen. So for every mean in question the
spread is that of the likeliest distribution which has it, on the values seen and one more, as far away as any.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.statistics.differences import ClusteredValues

__all__ = ["score_bounds", "score_upper_bound"]

Values = NDArray[np.float64]
_HALVINGS = 60


def score_bounds(changes: ClusteredValues, tail: float) -> tuple[float, float]:
    """Return the ends of a score interval of a mean of differences, each a bound of the level ``1 - tail``.

    An item's value is the mean over its languages. How far one may be from the mean of all is the geometric mean of how
    far any is, and how far any is in one language: more languages than have done so may change together, if hardly all
    of them. Their spread is estimated: the quantile is Student's. For right-or-wrong items of one language, which may
    change by 1 in both directions, and with the normal quantile, this is Tango's interval.
    """
    means = np.bincount(changes.group, weights=changes.values) / changes.sizes
    count = int(changes.cluster.max()) + 1
    mean = changes.mean().value
    # Around the languages' means, so that languages with other items do not spread the items by what sets them apart.
    items = mean + count * changes.sums(changes.values - means[changes.group])
    low, high, critical = -1.0, 1.0, -NormalDist().inv_cdf(tail)
    if changes.turned is None:
        from scipy import special  # takes a while to import

        critical = -float(special.stdtrit(count - 1, tail))
        distances, largest_item = np.abs(changes.values - mean), np.abs(items - mean).max()
        largest_distance = max(largest_item, float(count * (distances * changes.weights).max()))
        away = max(math.sqrt(largest_distance * distances.max()), largest_item)
        low, high = mean - away, mean + away
    values, counts = np.unique(items, return_counts=True)
    return -score_upper_bound(-values, counts, -low, critical), score_upper_bound(values, counts, high, critical)


def score_upper_bound(values: Values, counts: NDArray[np.int64], largest: float, critical: float) -> float:
    """Return the largest mean of which the score statistic is at most ``critical``.

    The statistic of a mean m is ``(m - mean of the values) / sqrt(V / n)``, V the variance of the likeliest
    distribution on the values and ``largest`` whose mean is m (empirical likelihood: A. Owen, Biometrika 75, 1988).
    Its weights are ``counts / (1 - k (values - mean))``, with a larger k for a larger m, up to the k at which the
    weight of ``largest``, which was not seen, is free; from there on it takes what is missing.

    Args:
        values: Different values ``[k]``.
        counts: How often each is there ``[k]``.
        largest: No value is larger; one that is as large is taken as seen.
        critical: A positive number.
    """
    n = int(counts.sum())
    centre = float(counts @ values) / n
    away, room = values - centre, largest - centre
    if room <= 1e-12 * max(abs(largest), abs(centre)):
        return centre

    def tilted(share: float) -> tuple[float, float]:
        weights = counts / (1 - share * away / room)
        weights /= weights.sum()
        mean = float(weights @ away)
        return mean, float(weights @ (away - mean) ** 2)

    def mixed(share: float) -> tuple[float, float]:
        mean, variance = edge
        moved = (1 - share) * mean + share * room
        return moved, (1 - share) * (variance + (mean - moved) ** 2) + share * (room - moved) ** 2

    def refuted(mean: float, variance: float) -> bool:
        return mean > 1e-12 * room and n * mean * mean >= critical * critical * variance

    at = tilted
    if away.max() < room * (1 - 1e-9):
        edge = tilted(1.0)
        at = tilted if refuted(*edge) else mixed
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        low, high = (low, share) if refuted(*at(share)) else (share, high)
    return centre + at(low)[0]
