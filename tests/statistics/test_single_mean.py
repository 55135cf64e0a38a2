"""The interval of a single score, against statsmodels' Wilson interval and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from lm_eval_moe.statistics import Estimate, score_interval


def estimate(values: list[float]) -> Estimate:
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))))


@given(st.integers(2, 400), st.data())
def test_right_or_wrong_items_have_wilsons_interval(items: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, items))
    found = score_interval(estimate([1.0] * right + [0.0] * (items - right)), items, share=True)
    assert found == pytest.approx(proportion_confint(right, items, method="wilson"), abs=1e-9)


@pytest.mark.parametrize("right", [0.5, 0.7, 0.8, 0.9, 0.95, 0.98])
@pytest.mark.parametrize("items", [15, 30, 100, 1000])
def test_right_or_wrong_scores_are_covered(items: int, right: float) -> None:
    """A sum over all outcomes: as right answers are whole numbers, it varies. Student's t goes down to 79 %."""
    covered = 0.0
    for number, chance in enumerate(stats.binom.pmf(range(items + 1), items, right)):
        low, high = score_interval(estimate([1.0] * number + [0.0] * (items - number)), items, share=True) or (2, 2)
        covered += chance * (low <= right <= high)
    assert 0.91 <= covered <= 0.985


def test_graded_shares_and_means_of_tasks_are_covered_and_stay_between_0_and_1() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(1000):
        kind, values = generator.random(20), generator.beta(2, 2, 20)
        scored = np.where(kind < 0.1, 1.0, np.where(kind < 0.2, values, 0.0))
        low, high = score_interval(estimate(scored.tolist()), 20, share=True) or (0.0, 0.0)
        assert 0 <= low <= scored.mean() <= high <= 1
        covered += low <= 0.15 <= high
    assert covered / 1000 >= 0.93


def test_as_many_right_or_wrong_items_as_have_the_standard_error() -> None:
    """A half with the standard error of 50 right-or-wrong items, of many items."""
    found = score_interval(Estimate(0.5, math.sqrt(0.25 / 49)), share=True)
    assert found == pytest.approx(proportion_confint(25, 50, method="wilson"), abs=1e-9)


def test_few_graded_items_have_students_quantile() -> None:
    """By the formula of the source: effective items, times the square of the ratio of the two quantiles."""
    values = [0.2, 0.9, 0.4, 0.7, 1.0, 0.3]
    mean, stderr = np.mean(values), stats.sem(values)
    alike = 6 / 5 * mean * (1 - mean) / stderr**2 * (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 5)) ** 2
    found = score_interval(estimate(values), 6, share=True)
    assert found == pytest.approx(proportion_confint(mean * alike, alike, method="wilson"), abs=1e-9)


def test_values_without_bounds_have_students_t() -> None:
    values = [3.0, 5.0, 4.5, 9.0]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    found = score_interval(estimate(values), 4, share=False)
    assert found == pytest.approx((expected.low, expected.high))
    assert score_interval(estimate(values), share=False) == pytest.approx(
        stats.norm.interval(0.95, np.mean(values), stats.sem(values))
    )


@pytest.mark.parametrize(
    ("score", "items", "share"),
    [
        (Estimate(0.5, None), 10, True),
        (Estimate(0.5, 0.0), 10, True),  # all are half right
        (Estimate(1.0, 0.0), 0, True),  # of nobody knows how many
        (Estimate(3.0, 0.0), 10, False),
    ],
)
def test_what_would_claim_certainty_has_no_interval(score: Estimate, items: int, share: bool) -> None:
    assert score_interval(score, items, share=share) is None
