"""With how many items is a drop of a given size found, and how often: power of the paired one-sided tests.

Two runs on the same items do not answer independently: most items are easy or hard for both. What counts is how often
exactly one of the two is right, and that follows from the share of right answers and the correlation of the two runs'
answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.statistics.score_test import mcnemar_worse_p, score_z

__all__ = ["changed_shares", "mean_power", "mean_stderr", "paired_power", "smallest_found", "smoothed_share"]

_TAIL = 1e-9  # probability left out of an exact sum


def smoothed_share(right: float, n: int) -> float:
    """Return ``(right + 2) / (n + 4)``: a share that is neither 0 nor 1 however few the items (Agresti and Coull)."""
    return (right + 2) / (n + 4)


def changed_shares(share: float, drop: float, correlation: float) -> tuple[float, float]:
    """Return the shares of items that only the first run has right, and only the second.

    With ``p`` and ``p - drop`` the runs' shares of right answers, both are right on
    ``p (p - drop) + correlation x sqrt(p (1 - p) (p - drop) (1 - p + drop))``. A correlation larger than these shares
    allow counts as the largest that they do.

    Args:
        share: The first run's share of right answers, between 0 and 1.
        drop: How much lower the second run's is, between 0 and ``share``.
        correlation: Of the two runs' answers to the same item, 0 to 1.
    """
    after = max(share - drop, 0.0)
    spread = math.sqrt(max(share * (1 - share) * after * (1 - after), 0.0))
    better = max(after * (1 - share) - correlation * spread, 0.0)
    return better + share - after, better


def paired_power(
    share: float, n: int, drop: float, *, alpha: float, correlation: float, margin: float, beyond_margin: bool = False
) -> float:
    """Return how often a drop of right-or-wrong items is found: a sum over all outcomes.

    Found means that the drop seen exceeds the margin and its one-sided p is below alpha: of McNemar's exact test, or
    if ``beyond_margin`` of Tango's score test of a drop of at most ``margin``.

    Args:
        share: The first run's share of right answers.
        n: Items.
        drop: The true drop.
        alpha: Level of the one test, after correction for others.
        correlation: Of the two runs' answers to the same item.
        margin: The drop that is tolerated.
        beyond_margin: Whether the test is about exceeding the margin rather than about any drop.
    """
    from scipy import stats

    worse_share, better_share = changed_shares(share, drop, correlation)
    # Worse items are binomial; given them, better ones are binomial among the rest.
    worse = _likely(n, worse_share)
    chance_worse = stats.binom.pmf(worse, n, worse_share)
    if better_share == 0:
        better = np.zeros((1, 1), dtype=np.int64)
        chance = chance_worse[:, None]
    else:
        better = _likely(n, better_share)[None, :]
        rest = n - worse[:, None]
        chance = chance_worse[:, None] * stats.binom.pmf(better, rest, min(better_share / (1 - worse_share), 1.0))
    columns = worse[:, None]
    found = columns - better > margin * n * (1 + 1e-12)
    if beyond_margin and margin > 0:
        found = found & (stats.norm.sf(score_z(columns, better, n, margin)) < alpha)
    else:
        found = found & (mcnemar_worse_p(columns, better) < alpha)
    return float(min(1.0, chance[found].sum()))


def mean_stderr(variances: Sequence[float], items: Sequence[int], between: float) -> float:
    """Return the standard error of the mean over languages of the mean difference per item.

    Args:
        variances: Of the per-item difference in each language.
        items: Items in each language.
        between: Correlation of the differences of one item in two languages; 0 where these have other items.
    """
    total = math.fsum(variance / n for variance, n in zip(variances, items, strict=True))
    for (first, n), (second, m) in combinations(zip(variances, items, strict=True), 2):
        total += 2 * between * math.sqrt(first * second) / max(n, m)
    return math.sqrt(total) / len(variances)


def mean_power(drop: float, stderr: float, *, alpha: float, margin: float, beyond_margin: bool = False) -> float:
    """Return how often a drop of a mean is found, by the normal approximation.

    Args:
        drop: The true drop.
        stderr: The standard error of the drop seen.
        alpha: Level of the one test, after correction for others.
        margin: The drop that is tolerated.
        beyond_margin: Whether the test is about exceeding the margin rather than about any drop.
    """
    from scipy import special

    half_width = float(special.ndtri(1 - alpha)) * stderr
    needed = margin + half_width if beyond_margin else max(margin, half_width)
    if stderr == 0:
        return float(drop > needed)
    return float(special.ndtr((drop - needed) / stderr))


def smallest_found(power: Callable[[float], float], *, wanted: float, largest: float) -> float | None:
    """Return the smallest drop that is found with the wanted probability, to 1e-4; None if even ``largest`` is not."""
    if power(largest) < wanted:
        return None
    low, high = 0.0, largest
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= wanted else (middle, high)
    return high


def _likely(n: int, share: float) -> NDArray[np.int64]:
    """Return the counts of B(n, share) outside of which lies next to no probability."""
    from scipy import stats

    low, high = stats.binom.ppf([_TAIL, 1 - _TAIL], n, share)
    return np.arange(max(int(low) - 1, 0), min(int(high) + 1, n) + 1)
