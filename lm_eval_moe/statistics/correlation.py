"""Correlations over few points, such as languages, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.statistics.differences import Z95
from lm_eval_moe.statistics.judgement import ALPHA, Interval, agreeing_ends, is_beyond_chance

__all__ = ["LEAST_POINTS", "Correlation", "correlation"]

LEAST_POINTS = 4
"""Fewer points are refused: of three, every third pairing is as straight as the one that is there."""

# Up to so many points all pairings are gone through.
_EXACT = 7

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Correlation:
    """A correlation over few points.

    Attributes:
        method: ``pearson`` or ``spearman``.
        r: The coefficient.
        n: Points.
        interval: 95 % interval by Fisher's z; it leaves out 0 exactly if ``p`` is below 5 %. None for points on a line.
        p: Two-sided permutation p: how often another pairing of the values is at least as far from 0.
        exact: Whether all pairings were gone through; otherwise they are drawn at random.
        least_p: The smallest p that so many points can give.
    """

    method: Literal["pearson", "spearman"]
    r: float
    n: int
    interval: Interval | None
    p: float
    exact: bool
    least_p: float


def correlation(
    x: Sequence[float],
    y: Sequence[float],
    method: Literal["pearson", "spearman"] = "pearson",
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> Correlation | None:
    """Return a correlation with its interval and a permutation p.

    The interval is ``tanh(artanh r -+ 1.96 se)``, with ``se`` the root of ``1 / (n - 3)`` for Pearson's r (R. A.
    Fisher, Metron 1, 1921) and of ``(1 + r^2 / 2) / (n - 3)`` for Spearman's (D. Bonett and T. Wright, Psychometrika
    65, 2000). If it sees 0 otherwise than the permutations do, its end next to 0 is moved to the side that they say.
    The order of the points makes no difference.

    Args:
        x: Values, one a point.
        y: Their partners.
        method: Pearson's r, or Spearman's: Pearson's of the ranks, equal values sharing theirs.
        resamples: Random pairings where there are too many to go through.
        seed: Of these.

    Returns:
        None where r is not defined, since the values of one side do not vary.

    Raises:
        ValueError: Fewer than `LEAST_POINTS` points, as many x as y are not given, or a value is not finite.
    """
    points = np.array(sorted(zip(x, y, strict=True)), dtype=np.float64)
    n = len(points)
    if n < LEAST_POINTS:
        raise ValueError(f"a correlation takes at least {LEAST_POINTS} points, got {n}")
    if not np.isfinite(points).all():
        raise ValueError("a correlation takes finite values")
    a, b = points.T
    of = _ranked if method == "spearman" else _r
    r = float(of(a, b))
    if math.isnan(r):
        return None
    exact = n <= _EXACT
    if exact:
        shuffled = b[np.array(list(permutations(range(n))))]
    else:
        shuffled = np.random.default_rng(seed).permuted(np.tile(b, (resamples, 1)), axis=1)
    as_far = int((np.abs(of(np.broadcast_to(a, shuffled.shape), shuffled)) >= abs(r) - 1e-12).sum())
    p = as_far / len(shuffled) if exact else (1 + as_far) / (1 + len(shuffled))
    least = 2 / math.factorial(n) if exact else 1 / (1 + resamples)
    return Correlation(
        method, r, n, _interval(r, n, 1 + r * r / 2 if method == "spearman" else 1.0, p), p, exact, least
    )


def _interval(r: float, n: int, spread: float, p: float) -> Interval | None:
    if abs(r) > 1 - 1e-12:
        return None
    z, half = math.atanh(r), Z95 * math.sqrt(spread / (n - 3))
    return agreeing_ends(math.tanh(z - half), math.tanh(z + half), r, is_beyond_chance(p, ALPHA), 0.0)


def _r(x: Values, y: Values) -> Values:
    """Return Pearson's r over the last axis, NaN where one side does not vary."""
    a, b = (values - values.mean(-1, keepdims=True) for values in (x, y))
    norms = [np.sqrt((values * values).sum(-1)) for values in (a, b)]
    # Rounding of the mean leaves a trace of values that are all the same.
    vary = [norm > 1e-12 * np.abs(values).max(-1) for norm, values in zip(norms, (x, y), strict=True)]
    both = vary[0] & vary[1]
    r = np.divide((a * b).sum(-1), norms[0] * norms[1], out=np.full(both.shape, np.nan), where=both)
    return np.asarray(np.clip(r, -1.0, 1.0))


def _ranked(x: Values, y: Values) -> Values:
    from scipy.stats import rankdata

    return _r(rankdata(x, axis=-1), rankdata(y, axis=-1))
