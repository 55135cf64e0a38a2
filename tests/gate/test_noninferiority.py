"""One-sided tests and bounds of a drop agree with SciPy, statsmodels and a likelihood maximised by other means."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.score_oracle import score_by_optimiser, score_of_values

from lm_eval_moe.statistics import ClusteredValues, Estimate
from lm_eval_moe.statistics.judgement import paired_drop, unpaired_drop
from lm_eval_moe.statistics.score_bound import score_bounds
from lm_eval_moe.statistics.score_test import mcnemar_worse_p, score_z


def score_bound(worse: int, better: int, n: int, alpha: float) -> float:
    losses = [1.0] * worse + [-1.0] * better + [0.0] * (n - worse - better)
    return score_bounds(ClusteredValues.of([list(enumerate(losses))]), alpha)[1]


@pytest.mark.parametrize(
    ("worse", "better", "n", "drop"),
    [(20, 10, 100, 0.05), (3, 0, 50, 0.02), (0, 0, 44, 0.05), (1, 0, 44, 0.1), (30, 40, 250, 0.03), (5, 5, 20, -0.1)],
)
def test_score_statistic_is_that_of_the_likelihood(worse: int, better: int, n: int, drop: float) -> None:
    assert float(score_z(worse, better, n, drop)) == pytest.approx(score_by_optimiser(worse, better, n, drop), rel=1e-6)


def test_score_statistic_of_no_drop_is_mcnemars() -> None:
    assert float(score_z(20, 8, 100, 0.0)) == pytest.approx(12 / math.sqrt(28), rel=1e-12)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 200), st.sampled_from([0.01, 0.05, 0.2]))
def test_bound_is_where_the_statistic_reaches_its_quantile(worse: int, better: int, same: int, alpha: float) -> None:
    n = worse + better + same
    if n == 0 or worse == n:
        return
    bound = score_bound(worse, better, n, alpha)
    assert (worse - better) / n <= bound <= 1
    assert float(score_z(worse, better, n, bound)) == pytest.approx(-stats.norm.ppf(1 - alpha), abs=1e-5)


def test_bound_without_any_change_has_a_closed_form() -> None:
    z = stats.norm.ppf(0.95)
    assert score_bound(0, 0, 250, 0.05) == pytest.approx(z**2 / (250 + z**2), abs=1e-9)
    assert score_bound(7, 0, 7, 0.05) == 1.0


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (0, 5), (5, 0), (12, 3), (3, 12), (60, 41), (700, 640)])
def test_exact_p_is_the_binomial_tests(worse: int, better: int) -> None:
    oracle = stats.binomtest(worse, worse + better, 0.5, alternative="greater").pvalue if worse + better else 1.0
    assert float(mcnemar_worse_p(worse, better)) == pytest.approx(oracle, rel=1e-9)
    if worse > better:
        losses = [(i, 1.0 if i < worse else -1.0 if i < worse + better else 0.0) for i in range(worse + better + 30)]
        assert paired_drop([losses], alpha=0.05).p == pytest.approx(oracle, rel=1e-9)


def test_graded_items_get_the_score_bound_and_a_tolerated_drop_the_t_test() -> None:
    losses = np.random.default_rng(0).normal(0.1, 1.0, 40)
    drop = paired_drop([list(enumerate(losses))], alpha=0.05)
    assert drop.upper is not None
    largest = losses.mean() + np.abs(losses - losses.mean()).max()
    assert score_of_values(losses, largest, drop.upper) == pytest.approx(stats.t.ppf(0.95, 39), abs=1e-3)
    tolerated = paired_drop([list(enumerate(losses))], alpha=0.05, tolerance=0.05)
    assert tolerated.p == pytest.approx(stats.ttest_1samp(losses, 0.05, alternative="greater").pvalue, rel=1e-9)


def test_average_over_languages_is_clustered_by_item_as_in_statsmodels() -> None:
    rng = np.random.default_rng(1)
    shared = rng.normal(size=30)
    languages = [shared + rng.normal(size=30) for _ in range(4)]
    drop = paired_drop([list(enumerate(losses)) for losses in languages], alpha=0.1)
    fit: Any = sm.OLS(np.concatenate(languages), np.ones(120)).fit(
        cov_type="cluster", cov_kwds={"groups": np.tile(np.arange(30), 4)}
    )
    assert drop.stderr == pytest.approx(fit.bse[0], rel=1e-9)
    # Where all items change, by much alike, the score bound is next to that of the standard error.
    assert drop.upper == pytest.approx(fit.params[0] + stats.t.ppf(0.9, 29) * fit.bse[0], abs=0.1 * fit.bse[0])


def test_a_tolerated_drop_over_languages_has_as_many_degrees_of_freedom_as_items() -> None:
    shared = np.random.default_rng(2).normal(0.4, 1.0, 9)
    drop = paired_drop([list(enumerate(shared))] * 3, alpha=0.05, tolerance=0.05)
    assert drop.p == pytest.approx(stats.ttest_1samp(shared, 0.05, alternative="greater").pvalue, rel=1e-9)


def test_a_tolerated_drop_without_items_is_tested_beyond_it_and_bounded_from_0() -> None:
    drop = unpaired_drop([Estimate(0.8, 0.03)], [Estimate(0.7, 0.04)], alpha=0.05, tolerance=0.06)
    assert drop.p == pytest.approx(stats.norm.sf(0.04 / 0.05), rel=1e-9)
    assert drop.upper == pytest.approx(0.1 + stats.norm.ppf(0.95) * 0.05, rel=1e-9)


def test_a_tolerated_drop_of_right_or_wrong_items_is_tested_by_its_score() -> None:
    losses = [(i, value) for i, value in enumerate([1.0] * 20 + [-1.0] * 5 + [0.0] * 75)]
    drop = paired_drop([losses], alpha=0.05, tolerance=0.05)
    assert drop.p == pytest.approx(stats.norm.sf(score_by_optimiser(20, 5, 100, 0.05)), rel=1e-6)


@pytest.mark.parametrize(("sign", "expected"), [(1, 0.1), (-1, -0.1)])
def test_without_items_the_standard_errors_decide(sign: int, expected: float) -> None:
    drop = unpaired_drop([Estimate(0.8, 0.03)], [Estimate(0.7, 0.04)], alpha=0.05, sign=sign)
    assert drop.value == pytest.approx(expected)
    assert drop.p == pytest.approx(stats.norm.sf(expected / 0.05), rel=1e-9)
    assert drop.upper == pytest.approx(expected + stats.norm.ppf(0.95) * 0.05, rel=1e-9)


def test_an_unknown_standard_error_gives_no_p() -> None:
    assert unpaired_drop([Estimate(0.8, None)], [Estimate(0.7, 0.04)], alpha=0.05).p is None


def test_unknown_dependence_takes_the_largest_error() -> None:
    together = unpaired_drop([Estimate(0.8, 0.03)] * 3, [Estimate(0.7, 0.04)] * 3, alpha=0.05)
    assert together.value == pytest.approx(0.1)
    assert together.stderr == pytest.approx(0.05)  # as if the three were one: not 0.05 / sqrt(3)
