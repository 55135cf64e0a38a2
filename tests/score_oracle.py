"""Tango's score statistic and interval of paired right-or-wrong items, by numerical maximisation of the likelihood."""

from __future__ import annotations

import math

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
