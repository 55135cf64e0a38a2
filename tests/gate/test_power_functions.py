"""The probability of finding a drop is the sum over all outcomes, and falls and rises as it must."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lm_eval_moe.statistics.power import (
    changed_shares,
    mean_power,
    mean_stderr,
    paired_power,
    smallest_found,
    smoothed_share,
)


def power_by_enumeration(share: float, n: int, drop: float, alpha: float, correlation: float, margin: float) -> float:
    worse, better = changed_shares(share, drop, correlation)
    total = 0.0
    for w, b in itertools.product(range(n + 1), repeat=2):
        if w + b > n or (w - b) / n <= margin + 1e-12 or w + b == 0:
            continue
        if stats.binomtest(w, w + b, 0.5, alternative="greater").pvalue <= alpha:
            total += stats.multinomial.pmf([w, b, n - w - b], n, [worse, better, 1 - worse - better])
    return total


@pytest.mark.parametrize(
    ("share", "n", "drop", "alpha", "correlation", "margin"),
    [(0.6, 24, 0.3, 0.05, 0.5, 0.0), (0.6, 24, 0.3, 0.05, 0.5, 0.25), (0.9, 20, 0.2, 0.01, 0.0, 0.05)],
)
def test_power_is_the_sum_over_all_outcomes(
    share: float, n: int, drop: float, alpha: float, correlation: float, margin: float
) -> None:
    given = paired_power(share, n, drop, alpha=alpha, correlation=correlation, margin=margin)
    assert given == pytest.approx(power_by_enumeration(share, n, drop, alpha, correlation, margin), abs=1e-7)


def test_changed_shares_have_the_correlation_that_was_asked_for() -> None:
    worse, better = changed_shares(0.7, 0.1, 0.6)
    assert worse - better == pytest.approx(0.1)
    both = 0.7 - worse
    assert (both - 0.7 * 0.6) / math.sqrt(0.7 * 0.3 * 0.6 * 0.4) == pytest.approx(0.6)
    assert changed_shares(0.5, 0.2, 1.0) == pytest.approx((0.2, 0.0))  # as alike as the two shares allow


def test_power_of_no_drop_is_at_most_alpha_and_rises_with_the_drop() -> None:
    chances = [
        paired_power(0.6, 250, drop, alpha=0.05, correlation=0.5, margin=0.0) for drop in (0.0, 0.02, 0.05, 0.1, 0.2)
    ]
    assert chances[0] <= 0.05
    assert chances == sorted(chances)
    assert chances[-1] > 0.99


def test_a_test_beyond_the_margin_keeps_alpha_at_the_margin() -> None:
    at = paired_power(0.6, 400, 0.05, alpha=0.05, correlation=0.5, margin=0.05, beyond_margin=True)
    assert 0.03 < at < 0.06  # a score test: close to alpha, not exact
    far = paired_power(0.6, 400, 0.15, alpha=0.05, correlation=0.5, margin=0.05, beyond_margin=True)
    assert far > 0.85


def test_power_of_a_mean_is_normal() -> None:
    assert mean_power(0.05, 0.02, alpha=0.05, margin=0.0) == pytest.approx(
        stats.norm.sf(stats.norm.ppf(0.95) - 2.5), rel=1e-9
    )
    assert mean_power(0.05, 0.02, alpha=0.05, margin=0.04) == pytest.approx(stats.norm.cdf(0.5), rel=1e-9)
    # Whichever asks for more: here the margin, below the test.
    assert mean_power(0.05, 0.02, alpha=0.05, margin=0.01) == pytest.approx(
        stats.norm.sf(stats.norm.ppf(0.95) - 2.5), rel=1e-9
    )
    assert mean_power(0.05, 0.02, alpha=0.05, margin=0.01, beyond_margin=True) == pytest.approx(
        stats.norm.sf(stats.norm.ppf(0.95) - 2.0), rel=1e-9
    )


def test_standard_error_of_a_mean_counts_what_languages_share() -> None:
    rng = np.random.default_rng(0)
    covariance = 0.25 * (0.3 + 0.7 * np.eye(3))
    means = rng.multivariate_normal(np.zeros(3), covariance, size=(20000, 50)).mean(axis=(1, 2))
    assert mean_stderr([0.25] * 3, [50] * 3, 0.3) == pytest.approx(means.std(), rel=0.02)
    assert mean_stderr([0.25] * 3, [50] * 3, 0.0) == pytest.approx(math.sqrt(0.25 / 150))


def test_languages_of_different_sizes_share_the_items_of_the_smaller() -> None:
    rng = np.random.default_rng(1)
    draws = rng.multivariate_normal(np.zeros(2), 0.25 * (0.6 + 0.4 * np.eye(2)), size=(20000, 40))
    means = (draws[:, :, 0].mean(axis=1) + draws[:, :10, 1].mean(axis=1)) / 2
    assert mean_stderr([0.25, 0.25], [40, 10], 0.6) == pytest.approx(means.std(), rel=0.02)


def test_without_noise_a_drop_is_found_if_it_exceeds_the_margin() -> None:
    assert mean_power(0.05, 0.0, alpha=0.05, margin=0.05) == 0.0
    assert mean_power(0.051, 0.0, alpha=0.05, margin=0.05) == 1.0


def test_smallest_drop_is_where_the_probability_is_reached() -> None:
    def power(drop: float) -> float:
        return mean_power(drop, 0.02, alpha=0.05, margin=0.0)

    smallest = smallest_found(power, wanted=0.8, largest=0.5)
    assert smallest == pytest.approx((stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) * 0.02, abs=2e-4)
    assert smallest_found(power, wanted=0.8, largest=0.01) is None


def test_a_smoothed_share_is_never_certain() -> None:
    assert smoothed_share(20, 20) == 22 / 24
