"""Correlations over few points, against SciPy's."""

from __future__ import annotations

import math
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from lm_eval_moe.statistics import correlation


def sample(n: int, rho: float, seed: int, *, ties: bool = False) -> tuple[list[float], list[float]]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=n)
    y = rho * x + math.sqrt(1 - rho**2) * generator.normal(size=n)
    return (np.round(x, 0) if ties else x).tolist(), (np.round(y, 0) if ties else y).tolist()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [4, 7, 11, 40])
def test_coefficients_are_scipys(n: int, ties: bool) -> None:
    x, y = sample(n, -0.6, n, ties=ties)
    linear, ranked = (correlation(x, y, method, resamples=50) for method in ("pearson", "spearman"))
    assert linear is not None
    assert ranked is not None
    assert linear.r == pytest.approx(stats.pearsonr(x, y).statistic)
    assert ranked.r == pytest.approx(stats.spearmanr(x, y).statistic)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("n", [4, 5, 6])
def test_p_of_few_points_goes_through_all_pairings(n: int, method: str) -> None:
    x, y = sample(n, -0.8, 3 * n)
    of = stats.pearsonr if method == "pearson" else stats.spearmanr
    observed = abs(of(x, y).statistic)
    as_far = [abs(of(x, list(each)).statistic) >= observed - 1e-9 for each in permutations(y)]
    found = correlation(x, y, method, resamples=50)
    assert found is not None
    assert found.exact
    assert found.p == pytest.approx(np.mean(as_far))
    assert found.least_p == pytest.approx(2 / math.factorial(n))


def test_p_of_more_points_is_that_of_scipys_random_pairings() -> None:
    x, y = sample(15, -0.6, 9)
    method = stats.PermutationMethod(n_resamples=20_000, rng=np.random.default_rng(1))
    found = correlation(x, y, resamples=20_000)
    assert found is not None
    assert not found.exact
    assert 0.001 < found.p < 0.1
    assert found.p == pytest.approx(stats.pearsonr(x, y, method=method).pvalue, abs=0.006)


POINTS = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=4, max_size=12)


@settings(deadline=None)
@given(POINTS, st.sampled_from(["pearson", "spearman"]))
@example([(0, 0), (1, 2), (2, 3), (3, 5)], "pearson")  # Fisher's z leaves out 0, of 24 pairings 2 are as straight
@example([(0, 0), (1, 1), (2, 2), (3, 3), (-40, -40), (9, 8), (50, -30)], "pearson")
def test_interval_is_fishers_but_for_the_end_next_to_0_which_agrees_with_p(points: Any, method: Any) -> None:
    x, y = ([float(value) for value in values] for values in zip(*points, strict=True))
    found = correlation(x, y, method, resamples=200)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
        return
    assert found is not None
    if found.interval is None:
        assert abs(found.r) == pytest.approx(1.0)
        return
    low, high = found.interval
    assert (not low <= 0 <= high) == (found.p < 0.05)
    assert low <= found.r <= high
    if method == "pearson":
        expected = stats.pearsonr(x, y).confidence_interval(0.95)
    else:
        z, half = math.atanh(found.r), 1.959964 * math.sqrt((1 + found.r**2 / 2) / (len(x) - 3))
        expected = SimpleNamespace(low=math.tanh(z - half), high=math.tanh(z + half))
    as_expected = low == pytest.approx(expected.low, abs=1e-6), high == pytest.approx(expected.high, abs=1e-6)
    if (not expected.low <= 0 <= expected.high) == (found.p < 0.05):
        assert all(as_expected)
    else:
        assert as_expected[found.r > 0]
        assert found.interval[found.r < 0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_interval_covers_the_truth_about_as_often_as_it_says(method: Any) -> None:
    truth = -0.6 if method == "pearson" else 6 / math.pi * math.asin(-0.3)
    inside = 0
    for seed in range(400):
        found = correlation(*sample(10, -0.6, 1000 + seed), method, resamples=200, seed=seed)
        assert found is not None
        assert found.interval is not None
        inside += found.interval[0] <= truth <= found.interval[1]
    assert 0.92 <= inside / 400 <= 0.985


def test_points_on_a_line_have_no_interval() -> None:
    found = correlation([1, 2, 3, 4, 5], [10, 8, 6, 4, 2], resamples=100)
    assert found is not None
    assert found.r == pytest.approx(-1)
    assert found.interval is None
    assert found.p == pytest.approx(2 / 120)


def test_order_of_points_makes_no_difference() -> None:
    x, y = sample(9, 0.4, 8)
    assert correlation(x, y, seed=3) == correlation(x[::-1], y[::-1], seed=3)
    x, y = sample(9, 0.7, 5)
    assert correlation(x, y, seed=3) != correlation(x, y, seed=4)


def test_values_that_do_not_vary_have_no_correlation() -> None:
    assert correlation([1, 2, 3, 4], [0.3, 0.3, 0.3, 0.3]) is None
    assert correlation([0.1] * 5, [1, 2, 3, 4, 5], "spearman") is None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2, 3], [3, 2, 1], "at least 4 points, got 3"),
        ([], [], "at least 4 points, got 0"),
        ([1, 2, 3, math.nan], [1, 2, 3, 4], "finite"),
        ([1, 2, 3, 4], [1, 2, 3], "shorter"),
    ],
)
def test_what_cannot_be_correlated_is_refused(x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        correlation(x, y)
