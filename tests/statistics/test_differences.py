from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lm_eval_moe.statistics import (
    Difference,
    Estimate,
    Judgement,
    correlation,
    gain_over_controls,
    judge,
    judge_unpaired,
    paired_test,
    sign_flip,
    unpaired,
)
from lm_eval_moe.statistics.differences import ClusteredValues


def numbered(values: list[float]) -> list[tuple[int, float]]:
    return list(enumerate(values))


def judged(changes: list[float]) -> Judgement:
    return judge(ClusteredValues.of([numbered(changes)]))


def test_one_language_has_the_usual_standard_error_of_a_mean() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.0]
    found = ClusteredValues.of([numbered(values)]).mean()
    assert found.value == pytest.approx(0.6)
    assert found.stderr == pytest.approx(stats.sem(values))


def test_the_same_items_in_every_language_are_one_cluster_each() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 3)) + rng.normal(size=(40, 1))  # items resemble themselves across languages
    found = ClusteredValues.of([numbered(list(column)) for column in values.T]).mean()
    assert found.stderr == pytest.approx(stats.sem(values.mean(axis=1)))
    independent = math.sqrt(sum(stats.sem(column) ** 2 for column in values.T)) / 3
    assert found.stderr > 1.2 * independent


def test_items_of_their_own_in_every_language_count_as_independent() -> None:
    rng = np.random.default_rng(1)
    columns = [rng.normal(size=size) for size in (300, 400)]
    groups = [[((name, i), x) for i, x in enumerate(column)] for name, column in enumerate(columns)]
    expected = math.sqrt(sum(stats.sem(column) ** 2 for column in columns)) / 2
    assert ClusteredValues.of(groups).mean().stderr == pytest.approx(expected, rel=2e-3)


def test_groups_that_count_for_different_shares_are_clustered_by_hand() -> None:
    groups = [[("a", 1.0), ("b", 0.0), ("c", 0.25)], [("a", 0.5), ("c", 1.0)], [("d", 0.75), ("a", 0.0)]]
    shares = [0.5, 0.3, 0.2]
    sums = dict.fromkeys("abcd", 0.0)
    for share, group in zip(shares, groups, strict=True):
        mean = sum(value for _, value in group) / len(group)
        for item, value in group:
            sums[item] += share * (value - mean) / len(group)
    found = ClusteredValues.of(groups, shares).mean()
    assert found.value == pytest.approx(0.5 * 1.25 / 3 + 0.3 * 0.75 + 0.2 * 0.375)
    assert found.stderr == pytest.approx(math.sqrt(4 / 3 * sum(value**2 for value in sums.values())))
    assert ClusteredValues.of(groups, [1 / 3] * 3).mean().stderr == pytest.approx(
        ClusteredValues.of(groups).mean().stderr
    )


def test_a_single_item_has_no_standard_error() -> None:
    assert ClusteredValues.of([numbered([1.0])]).mean() == Estimate(1.0, None)


def test_paired_difference_by_hand() -> None:
    # Ten items, three better, one worse: mean 0.2, sum of squares 4 - 10 * 0.04 = 3.6, SE = sqrt(3.6 / 9 / 10) = 0.2.
    found = ClusteredValues.of([numbered([1, 1, 1, -1, 0, 0, 0, 0, 0, 0])]).difference()
    assert (found.value, found.stderr) == (pytest.approx(0.2), pytest.approx(0.2))
    assert (found.changed, found.values) == (4, 10)


@pytest.mark.parametrize(("better", "worse"), [(1, 0), (4, 0), (5, 1), (6, 0), (9, 2), (7, 7)])
def test_exact_test_of_right_or_wrong_scores_is_mcnemars(better: int, worse: int) -> None:
    found = judged([1.0] * better + [-1.0] * worse + [0.0] * 50)
    assert found.p == pytest.approx(stats.binomtest(better, better + worse).pvalue)


def test_exact_test_of_any_scores_is_scipys_permutation_test() -> None:
    changes = np.random.default_rng(2).normal(0.3, 1.0, size=9)
    found = judged(list(changes))
    expected = stats.permutation_test(
        (changes, np.zeros(9)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
    )
    assert found.p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ([0.0] * 20, "identical"),
        ([1.0] * 4 + [0.0] * 56, "noise"),  # 2.05 standard errors, but four items of one sign have p = 1/8
        ([1.0] * 7 + [0.0] * 56, "beyond noise"),
        ([1.0] * 30 + [-1.0] * 10 + [0.0] * 60, "beyond noise"),
        ([1.0] * 22 + [-1.0] * 18 + [0.0] * 60, "noise"),
        ([1.0], "noise"),  # a single item: p = 1
    ],
)
def test_verdict_on_paired_differences(changes: list[float], verdict: str) -> None:
    assert judged(changes).verdict == verdict


def test_unpaired_difference_adds_the_variances_of_the_runs_and_takes_languages_as_one() -> None:
    found = unpaired([Estimate(0.5, 0.03), Estimate(0.7, 0.04)], [Estimate(0.6, 0.12), Estimate(0.7, 0.05)])
    assert found.value == pytest.approx(0.05)
    assert found.stderr == pytest.approx((math.hypot(0.03, 0.12) + math.hypot(0.04, 0.05)) / 2)
    assert found.how == "unpaired"


def test_an_unknown_standard_error_stays_unknown() -> None:
    found = unpaired([Estimate(0.5, None)], [Estimate(0.9, 0.01)])
    assert found == Difference(pytest.approx(0.4), None, "unpaired")
    assert judge_unpaired(found).verdict == "unknown"


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0, 0.5]), min_size=2, max_size=30))
def test_exchanging_the_runs_only_turns_the_sign(changes: list[float]) -> None:
    there, back = judged(changes), judged([-x for x in changes])
    assert back.difference.value == pytest.approx(-there.difference.value)
    assert back.difference.stderr == pytest.approx(there.difference.stderr)
    assert back.p == pytest.approx(there.p)
    assert (there.interval is None) == (back.interval is None)
    if there.interval and back.interval:
        assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert back.verdict == there.verdict


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        ClusteredValues.of([[("a", 1.0), ("b", value)]])
    with pytest.raises(ValueError, match="finite"):
        paired_test([[("a", value), ("b", value)]])
    with pytest.raises(ValueError, match="finite"):
        sign_flip([value, 1.0])
    with pytest.raises(ValueError, match="finite"):
        correlation([1.0, 2.0, value, 4.0], [1.0, 3.0, 2.0, 5.0])
    with pytest.raises(ValueError, match="finite"):
        gain_over_controls([{"a": value}], [[{"a": 0.0}]])
