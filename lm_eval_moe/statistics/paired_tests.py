"""Tests of paired differences: McNemar's exact test, and sign-flip permutation tests clustered by item.

If a run were no better than another, each item could as well have had the two scores the other way round. Where an item
is asked in several languages its differences turn round together: they are one cluster. The p-value is the share of all
such turns whose mean is at least as far from 0 as the one seen. For right-or-wrong scores of one language that is
McNemar's exact test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.statistics.differences import ClusteredValues, Group

__all__ = [
    "DRAWS",
    "Method",
    "PairedTest",
    "exact_test",
    "max_sign_flip",
    "mcnemar",
    "mcnemar_end",
    "paired_test",
    "sign_flip",
    "sign_flip_end",
]

DRAWS = 9999
"""Random sign patterns of the permutation test where not all can be gone through."""

Method = Literal["McNemar exact", "sign flip exact", "sign flip sampled", "identical"]

_PATTERNS = 14  # up to 2^14 sign patterns are gone through one by one
_LATTICE = 40_000_000  # additions that an exact distribution of whole numbers may cost: some 40 ms
_PART = 4_000_000  # signs that are held at a time: 32 MB
_TESTS = 256  # tests that are turned at a time
_RELATIVE = 1e-9  # sums that differ by less are ties


@dataclass(frozen=True)
class PairedTest:
    """A two-sided p-value, and how it was found."""

    p: float
    method: Method


def mcnemar(better: int, worse: int) -> float:
    """Return the two-sided p of McNemar's exact test.

    Args:
        better: Items that are right in the second run only.
        worse: Items that are right in the first run only.
    """
    changed, fewer = better + worse, min(better, worse)
    if 2 * fewer == changed:
        return 1.0
    if changed > 1000:
        from scipy import special

        return min(1.0, 2 * float(special.bdtr(fewer, changed, 0.5)))
    # Whole numbers: no rounding until the end.
    ways, total = 1, 1
    for i in range(fewer):
        ways = ways * (changed - i) // (i + 1)
        total += ways
    share: float = 2 * total / 2**changed
    return min(1.0, share)


def paired_test(groups: Sequence[Group] | ClusteredValues, *, draws: int = DRAWS, seed: int = 0) -> PairedTest:
    """Test whether per-item differences (second run minus first; a group a language) are centred at 0.

    Exact for right-or-wrong scores and other whole numbers, and where at most 14 items changed; otherwise with
    ``draws`` random sign patterns, the same for the same seed and number of items.
    """
    changes = groups if isinstance(groups, ClusteredValues) else ClusteredValues.of(groups)
    return exact_test(changes) or sign_flip(changes.sums(changes.values), draws=draws, seed=seed)


def exact_test(changes: ClusteredValues) -> PairedTest | None:
    """Return the test over all sign patterns, None if it would take long."""
    values = changes.values
    if not values.any():
        return PairedTest(1.0, "identical")
    if changes.turned is not None:
        return PairedTest(mcnemar(*changes.turned), "McNemar exact")
    if changes.shares is None and (values == np.round(values)).all():
        # In units of 1 / (common multiple of the group sizes) the clusters' sums are whole numbers.
        common = math.lcm(*(int(size) for size in changes.sizes))
        if common * np.abs(values).max() < 2**40:
            scaled_sums = np.bincount(changes.cluster, weights=values * (common // changes.sizes)[changes.group])
            exact = _whole_numbers(np.round(scaled_sums).astype(np.int64))
            if exact is not None:
                return PairedTest(exact, "sign flip exact")
    sums = _moved(changes.sums(values))
    return sign_flip(sums) if len(sums) <= _PATTERNS else None


def sign_flip(sums: Sequence[float] | NDArray[np.float64], *, draws: int = DRAWS, seed: int = 0) -> PairedTest:
    """Test whether clusters' sums are centred at 0, by turning their signs.

    All patterns are gone through for at most 14 sums that are not 0. Otherwise p is ``(1 + hits) / (1 + draws)`` over
    random patterns (B. Phipson and G. Smyth, Permutation P-values Should Never Be Zero, 2010). The order of the sums
    makes no difference, nor which of the two runs is the first.

    Raises:
        ValueError: A sum is not finite.
    """
    values = np.asarray(sums, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError("clusters have finite sums")
    moved = _moved(values)
    if not len(moved):
        return PairedTest(1.0, "identical")
    reached = abs(math.fsum(moved)) * (1 - _RELATIVE)
    moved = np.sort(np.abs(moved))
    if len(moved) <= _PATTERNS:
        totals = np.zeros(1)
        for size in moved:
            totals = np.concatenate([totals + size, totals - size])
        return PairedTest(float((np.abs(totals) >= reached).mean()), "sign flip exact")
    totals = np.concatenate([2 * (part @ moved) for part in _patterns(len(moved), draws, seed)]) - moved.sum()
    hits = int((np.abs(totals) >= reached).sum())
    return PairedTest((1 + hits) / (1 + draws), "sign flip sampled")


def max_sign_flip(sums: NDArray[np.float64], *, draws: int = DRAWS, seed: int = 0) -> list[float]:
    """Return p-values of many tests of the same clusters, each corrected for all others.

    A cluster's signs turn together in all tests, so the correction knows how these depend on each other. p is the share
    of patterns in which the largest statistic of any test reaches the one seen (P. Westfall and S. Young,
    Resampling-Based Multiple Testing, 1993: single-step maxT), the data counted as one more pattern. The statistic is
    the sum over the clusters, divided by the root of their sum of squares.

    Args:
        sums: Each cluster's sum of differences ``[tests, clusters]``, no test without clusters.
        draws: Random sign patterns.
        seed: Their seed.
    """
    sizes = np.sqrt((sums**2).sum(axis=1, keepdims=True))
    scaled = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)
    statistic = np.abs(scaled.sum(axis=1)) * (1 - _RELATIVE)
    hits = np.zeros(len(sums), dtype=np.int64)
    for part in _patterns(sums.shape[1], draws, seed):
        largest = np.zeros(len(part))
        for begin in range(0, len(scaled), _TESTS):
            turned = np.abs((2 * part - 1) @ scaled[begin : begin + _TESTS].T)
            largest = np.maximum(largest, turned.max(axis=1))
        hits += len(largest) - np.searchsorted(np.sort(largest), statistic)
    return [float(p) for p in (1 + hits) / (1 + draws)]


def mcnemar_end(better: int, worse: int, values: int, tail: float) -> float:
    """Return the lower end of the gain that McNemar's exact test leaves, given how many items changed.

    Above 0 exactly if ``P(X >= better) < tail`` for X ~ B(changed, 1/2): with the bound of Clopper and Pearson for the
    share of better items among the changed ones, the gain is ``changed / values x (2 share - 1)``.

    Args:
        better: Items that are right in the second run only.
        worse: Items that are right in the first run only.
        values: All items.
        tail: Level of the one-sided test.
    """
    from scipy import special

    share = float(special.betaincinv(better, worse + 1, tail)) if better else 0.0
    return (better + worse) / values * (2 * share - 1)


def sign_flip_end(changes: ClusteredValues, tail: float, *, beyond: bool, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the lower end of a positive mean that the sign-flip test leaves.

    If the true mean is m, the clusters' sums less their parts of m could as well have other signs. A random pattern of
    signs speaks for m being refuted only if m is below the mean over the clusters that it turns, and below that over
    the others: the end is a quantile of the lower of the two (J. Hartigan, Using Subsample Values as Typical Values,
    1969).

    Args:
        changes: Differences with a positive mean.
        tail: Level of the one-sided test.
        beyond: What the test says of 0. Where random patterns say otherwise, as they may next to the level, the end is
            the nearest one on the right side of 0; so it is 0 where so few clusters refute nothing.
        draws: Random patterns.
        seed: Their seed.
    """
    sums, parts = changes.sums(changes.values), changes.sums(np.ones(len(changes.values)))
    order = np.lexsort((parts, sums))
    sums, parts = sums[order], parts[order]
    lower = []
    for pattern in _patterns(len(sums), draws, seed):
        turned, part = pattern @ sums, pattern @ parts
        with np.errstate(divide="ignore", invalid="ignore"):
            means = np.minimum(turned / part, (sums.sum() - turned) / (parts.sum() - part))
        # A pattern that turns all clusters or none is as far from any mean as the data are.
        lower.append(np.where(np.minimum(part, parts.sum() - part) > _RELATIVE / len(sums), means, -np.inf))
    ends = np.sort(np.concatenate(lower))
    # The data themselves count as one more pattern.
    end = float(ends[max(math.ceil(2 * tail * (1 + draws)) - 1, 1) - 1])
    if (end > 0) != beyond:
        end = float(ends[ends > 0].min(initial=sums.sum()) if beyond else ends[ends <= 0].max(initial=-np.inf))
    return end if math.isfinite(end) else 0.0


def _moved(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(sums[np.abs(sums) > 1e-12 * np.abs(sums).max(initial=0.0)])


def _whole_numbers(sums: NDArray[np.int64]) -> float | None:
    """Return the exact p over all sign patterns of whole numbers; None if that would take long.

    The sum of ``+-w`` is twice the sum of a random subset, less the total: a distribution on the whole numbers up to
    the total, built up number by number.
    """
    sizes = np.abs(sums[sums != 0])
    if not len(sizes):
        return 1.0
    sizes //= np.gcd.reduce(sizes)
    total, observed = int(sizes.sum()), abs(int(np.sign(sums[sums != 0]) @ sizes))
    if sizes.max() == 1:
        return mcnemar((total + observed) // 2, (total - observed) // 2)
    if total * len(sizes) > _LATTICE:
        return None
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    reached = 0
    for size in np.sort(sizes):
        reached += int(size)
        moved = chance[: reached + 1 - size].copy()
        chance[: reached + 1] *= 0.5
        chance[size : reached + 1] += 0.5 * moved
    # |2 s - total| >= observed; the distribution is symmetric.
    low = math.fsum(chance[: (total - observed) // 2 + 1])
    return 1.0 if observed == 0 else min(1.0, 2 * low)


def _patterns(count: int, draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield random patterns of 0 and 1 in parts of some rows ``[rows, count]``, together ``draws`` rows."""
    rows = max(1, _PART // count)
    if rows >= draws:  # few items: runs are compared over the same ones, so the patterns are kept
        yield _cached_bits(count, draws, seed)
        return
    generator = np.random.default_rng([seed, count])
    for begin in range(0, draws, rows):
        yield _random_bits(generator, min(rows, draws - begin), count)


@lru_cache(maxsize=4)
def _cached_bits(count: int, draws: int, seed: int) -> NDArray[np.float64]:
    return _random_bits(np.random.default_rng([seed, count]), draws, count)


def _random_bits(generator: np.random.Generator, rows: int, count: int) -> NDArray[np.float64]:
    width = -(-count // 8)
    random_bytes = np.frombuffer(generator.bytes(rows * width), dtype=np.uint8).reshape(rows, width)
    return np.unpackbits(random_bytes, axis=1, count=count).astype(np.float64)
