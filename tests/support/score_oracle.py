"""Score statistics and intervals of paired items, by numerical maximisation of the likelihood."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats


def score_by_optimiser(worse: int, better: int, n: int, drop: float) -> float:
    """Tango's statistic with the nuisance share found by a numerical optimiser."""

    def loss(share: float) -> float:
        parts = ((worse, share + drop), (better, share), (n - worse - better, 1 - 2 * share - drop))
        return -sum(count * math.log(chance) for count, chance in parts if count)

    low, high = max(0.0, -drop) + 1e-12, (1 - drop) / 2 - 1e-12
    share = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-14}).x
    return float((worse - better - n * drop) / math.sqrt(n * (2 * share + drop - drop**2)))


def score_interval(better: int, worse: int, n: int, level: float) -> tuple[float, float]:
    """Return the gains whose statistic is within the normal quantile of the level."""
    value, critical = (better - worse) / n, stats.norm.ppf(0.5 + level / 2)

    def end(sign: int, outermost: float) -> float:
        def excess(gain: float) -> float:
            return sign * score_by_optimiser(better, worse, n, gain) + critical

        return float(optimize.brentq(excess, value, outermost, xtol=1e-12))

    return end(-1, -0.999), end(1, 0.999)


def score_of_values(values: ArrayLike, largest: float, mean: float) -> float:
    """Return ``(mean - that of the values) / sqrt(V / n)``, V by the likeliest distribution that has the mean.

    It is on the values and on ``largest``, which has not been seen; it is found as the probabilities of a numerical
    optimiser.
    """
    seen, counts = np.unique(np.asarray(values, dtype=float), return_counts=True)
    points, n = np.append(seen, largest), int(counts.sum())
    x = (points - mean) / np.abs(points - mean).max()
    start = np.append(counts / n * 0.98, 0.02)
    found = optimize.minimize(
        lambda p: -float(counts @ np.log(p[:-1])) / n,
        start,
        jac=lambda p: -np.append(counts / p[:-1], 0.0) / n,
        bounds=[(1e-12, 1.0)] * len(counts) + [(0.0, 1.0)],
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones_like(p)},
            {"type": "eq", "fun": lambda p: p @ x, "jac": lambda p: x},
        ],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 2000},
    )
    assert found.success, found.message
    return float((mean - np.mean(values)) / math.sqrt(found.x @ (points - mean) ** 2 / n))
