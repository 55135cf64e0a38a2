"""Correlations with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.statistics.differences import Z95

__all__ = ["LEAST_POINTS", "Correlation", "ResampledCorrelation", "pearson", "resampled_correlation"]

LEAST_POINTS = 4
"""Fewer points are refused: of three, every third pairing is as straight as the one that is there."""

# Up to so many points all pairings are gone through.
_EXACT = 7

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Correlation:
    """Pearson's r over n points, with a 95 % interval (None for n < 4 or a perfect line)."""

    r: float
    n: int
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class ResampledCorrelation:
    """A correlation over few points, without assuming a distribution.

    The interval resamples the points: it says how far r might move had other points of the same kind been drawn. With
    fewer than about ten it is rough, and one point can decide it.

    Attributes:
        method: ``pearson`` or ``spearman``.
        r: The coefficient.
        n: Points.
        interval: 95 % bootstrap interval, bias-corrected and accelerated (BCa); None where it is not defined, as for
            points on a line.
        p: Two-sided permutation p: how often another pairing of the values is at least as far from 0.
        exact: Whether all pairings were gone through; otherwise they are drawn at random.
        least_p: The smallest p that so many points can give.
        resamples: Resamples that r is defined for; in the others one of the two does not vary.
    """

    method: Literal["pearson", "spearman"]
    r: float
    n: int
    interval: tuple[float, float] | None
    p: float
    exact: bool
    least_p: float
    resamples: int


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation | None:
    """Return Pearson's r and its 95 % interval by Fisher's z: ``tanh(artanh r -+ 1.96 / sqrt(n - 3))``.

    Returns:
        None where r is not defined: fewer than three points, or values that do not vary.

    Raises:
        ValueError: A value is not finite.
    """
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a correlation takes finite values")
    n = len(x)
    if n < 3:
        return None
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    scale = float(np.abs(x).max() * np.abs(y).max()) * n
    if norm <= 1e-12 * scale or norm == 0:
        return None
    r = max(-1.0, min(1.0, float(a @ b) / norm))
    if n < 4 or abs(r) > 1 - 1e-12:
        return Correlation(r, n, None)
    z, half = math.atanh(r), Z95 / math.sqrt(n - 3)
    return Correlation(r, n, (math.tanh(z - half), math.tanh(z + half)))


def resampled_correlation(
    x: Sequence[float],
    y: Sequence[float],
    method: Literal["pearson", "spearman"] = "pearson",
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> ResampledCorrelation | None:
    """Return a correlation with a bootstrap interval and a permutation p.

    The order of the points makes no difference.

    Args:
        x: Values, one a point.
        y: Their partners.
        method: Pearson's r, or Spearman's: Pearson's of the ranks, equal values sharing theirs.
        resamples: Bootstrap resamples of pairs, and random pairings where there are too many to go through.
        seed: Of both.

    Returns:
        None where r is not defined, since the values of one side do not vary.

    Raises:
        ValueError: Fewer than :data:`LEAST_POINTS` points, as many x as y are not given, or a value is not finite.
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
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, n, (resamples, n))
    distribution = of(a[drawn], b[drawn])
    distribution = distribution[~np.isnan(distribution)]
    exact = n <= _EXACT
    if exact:
        shuffled = b[np.array(list(permutations(range(n))))]
    else:
        shuffled = generator.permuted(np.tile(b, (resamples, 1)), axis=1)
    as_far = int((np.abs(of(np.broadcast_to(a, shuffled.shape), shuffled)) >= abs(r) - 1e-12).sum())
    p = as_far / len(shuffled) if exact else (1 + as_far) / (1 + len(shuffled))
    least = 2 / math.factorial(n) if exact else 1 / (1 + resamples)
    return ResampledCorrelation(method, r, n, _bca(distribution, a, b, of), p, exact, least, len(distribution))


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


def _bca(
    distribution: Values, x: Values, y: Values, of: Callable[[Values, Values], Values]
) -> tuple[float, float] | None:
    """Return the BCa interval (Efron and Tibshirani 1993, chapter 14) of a statistic from its resamples.

    SciPy's ``bootstrap`` gives none if a single resample does not vary, as happens with few points.
    """
    from scipy.special import ndtr, ndtri

    n, estimate = len(x), float(of(x, y))
    if abs(estimate) > 1 - 1e-12 or not distribution.size:
        return None
    below = ((distribution < estimate).mean() + (distribution <= estimate).mean()) / 2
    rest = np.array([[j for j in range(n) if j != i] for i in range(n)])
    left_out = of(x[rest], y[rest])
    pull = left_out.mean() - left_out
    spread = float((pull**2).sum())
    if not 0 < below < 1 or math.isnan(spread) or spread <= 1e-24:
        return None
    acceleration = float((pull**3).sum()) / (6 * spread**1.5)
    bias = float(ndtri(below))
    ends = []
    for z in (-Z95, Z95):
        shifted = bias + z
        ends.append(float(ndtr(bias + shifted / (1 - acceleration * shifted))))
    low, high = np.quantile(distribution, ends)
    return float(low), float(high)
