"""Tests of paired differences and Holm's adjustment against SciPy, statsmodels and enumeration."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from lm_eval_moe.statistics import (
    holm,
    judge,
    judge_unpaired,
    max_sign_flip,
    mcnemar,
    paired_test,
    sign_flip,
    unpaired,
)
from lm_eval_moe.statistics.differences import ClusteredValues, Estimate


@pytest.mark.parametrize("seed", range(30))
def test_holm_is_statsmodels(seed: int) -> None:
    generator = np.random.default_rng(seed)
    p_values = generator.random(1 + seed) ** generator.integers(1, 5)
    p_values[generator.random(1 + seed) < 0.3] = generator.choice([0.0, 0.02, 1.0])  # ties and both ends
    assert holm(p_values.tolist()) == pytest.approx(list(multipletests(p_values, method="holm")[1]), abs=1e-12)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize("wrong", [[0.1, float("nan")], [1.2], [-0.1]])
def test_holm_refuses_what_is_no_probability(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm(wrong)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_statsmodels(better: int, worse: int) -> None:
    if better + worse == 0:
        assert mcnemar(0, 0) == 1.0
        return
    expected = statsmodels_mcnemar([[5, better], [worse, 5]], exact=True).pvalue
    assert mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("better", "worse"), [(500, 501), (430, 571), (900, 1300), (3000, 2800), (999, 0)])
def test_mcnemar_of_many_items_is_scipys_binomial_test(better: int, worse: int) -> None:
    assert mcnemar(better, worse) == pytest.approx(stats.binomtest(better, better + worse).pvalue, rel=1e-9)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60))
def test_right_or_wrong_in_one_language_is_mcnemars_test(changes: list[float]) -> None:
    found = paired_test([list(enumerate(changes))])
    better, worse = changes.count(1.0), changes.count(-1.0)
    if better + worse == 0:
        assert (found.p, found.method) == (1.0, "identical")
    else:
        assert found.method == "McNemar exact"
        assert found.p == pytest.approx(stats.binomtest(better, better + worse).pvalue, rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(3, 10))
def test_several_languages_are_scipys_permutation_of_whole_items(seed: int, languages: int, items: int) -> None:
    changes = np.random.default_rng(seed).integers(-1, 2, size=(languages, items)).astype(float)
    found = paired_test([list(enumerate(row)) for row in changes])
    by_item = changes.sum(axis=0)  # whole numbers: ties are ties for SciPy, too
    expected = stats.permutation_test(
        (by_item, np.zeros(items)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)


def test_languages_with_different_items_by_enumeration() -> None:
    # Two languages of 3 and 2 items, two of them shared: weights 1/6 and 1/4.
    first, second = [("a", 1.0), ("b", -1.0), ("c", 1.0)], [("a", 1.0), ("d", 1.0)]
    sums = [1 / 6 + 1 / 4, -1 / 6, 1 / 6, 1 / 4]
    seen = abs(sum(sums))
    patterns = [sum(s * w for s, w in zip(signs, sums, strict=True)) for signs in itertools.product([1, -1], repeat=4)]
    expected = np.mean([abs(total) >= seen - 1e-12 for total in patterns])
    assert paired_test([first, second]).p == pytest.approx(expected, abs=1e-12)


def test_exact_distribution_of_many_whole_numbers_agrees_with_sampling() -> None:
    generator = np.random.default_rng(4)
    changes = generator.choice([-1.0, 0.0, 1.0], p=[0.06, 0.86, 0.08], size=(11, 250))
    groups = [list(enumerate(row)) for row in changes]
    exact = paired_test(groups)
    assert exact.method == "sign flip exact"
    sampled = sign_flip(changes.sum(axis=0), draws=200_000, seed=1)
    assert sampled.method == "sign flip sampled"
    assert exact.p == pytest.approx(sampled.p, abs=4 * np.sqrt(exact.p * (1 - exact.p) / 200_000))


def test_sampled_test_is_scipys_within_its_error_and_the_same_for_a_seed() -> None:
    changes = np.random.default_rng(5).normal(0.15, 1.0, size=200)
    groups = [list(enumerate(changes))]
    found = paired_test(groups, seed=3)
    assert found.method == "sign flip sampled"
    assert found == paired_test(groups, seed=3)
    expected = stats.permutation_test(
        (changes, np.zeros(200)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=40_000,
        random_state=1,
    ).pvalue
    assert found.p == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) * (1 / 9999 + 1 / 40_000)))
    assert found.p == pytest.approx(stats.ttest_1samp(changes, 0).pvalue, abs=0.03)


def test_a_sampled_p_counts_the_data_as_one_more_pattern_and_is_never_0() -> None:
    """No random pattern turns sixty items to one side."""
    assert sign_flip(np.linspace(1.0, 1.1, 60), draws=999).p == 1 / 1000


def test_many_items_take_little_memory_and_agree_with_the_t_test() -> None:
    changes = np.random.default_rng(9).normal(0.02, 1.0, size=14_000)
    tracemalloc.start()
    found = sign_flip(changes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = stats.ttest_1samp(changes, 0).pvalue
    assert found.p == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 9999) + 1e-3)
    assert peak < 200e6


def test_few_changes_among_many_items_are_gone_through_exactly() -> None:
    changes = [0.25, 0.5, -0.125, 0.7]
    sums = [sum(s * w for s, w in zip(signs, changes, strict=True)) for signs in itertools.product([1, -1], repeat=4)]
    expected = np.mean([abs(total) >= 1.325 - 1e-9 for total in sums])
    assert paired_test([list(enumerate(changes + [0.0] * 300))]).p == pytest.approx(expected)


def test_clustered_tests_hold_their_level_where_items_are_shared() -> None:
    # All languages give the same answers: eleven copies are no more evidence than one.
    changes = np.random.default_rng(6).choice([-1.0, 0.0, 1.0], p=[0.1, 0.75, 0.15], size=100)
    one = paired_test([list(enumerate(changes))])
    copies = paired_test([list(enumerate(changes))] * 11)
    assert copies.p == pytest.approx(one.p, rel=1e-9)


def test_clustered_standard_error_is_statsmodels_cluster_robust_one() -> None:
    import statsmodels.api as sm

    changes = np.random.default_rng(7).normal(0.1, 1.0, size=(5, 30)) + np.random.default_rng(8).normal(size=30)
    judged = judge(ClusteredValues.of([list(enumerate(row)) for row in changes]))
    found = judged.difference
    fit = sm.OLS(changes.ravel(), np.ones(150)).fit(
        cov_type="cluster",
        cov_kwds={"groups": np.tile(np.arange(30), 5), "use_correction": False},
        use_t=True,
    )
    assert found.value == pytest.approx(fit.params[0], abs=1e-12)
    assert found.stderr == pytest.approx(fit.bse[0] * np.sqrt(30 / 29), abs=1e-12)


def test_unpaired_p_and_interval_are_scipys_normal() -> None:
    found = judge_unpaired(unpaired([Estimate(0.5, 0.03)], [Estimate(0.6, 0.04)]), 0.1)
    assert found.p == pytest.approx(2 * stats.norm.sf(0.1 / 0.05), abs=1e-12)
    assert found.interval == pytest.approx(stats.norm.interval(0.9, 0.1, 0.05), abs=1e-9)
    assert judge_unpaired(unpaired([Estimate(0.5, None)], [Estimate(0.6, 0.04)])).p is None


def test_the_largest_of_one_test_is_its_own_sign_flip_test() -> None:
    sums = np.random.default_rng(0).normal(size=20) + 0.4
    assert max_sign_flip(sums[None]) == pytest.approx([sign_flip(sums).p], abs=0.02)


def test_the_largest_of_many_tests_is_what_all_patterns_say() -> None:
    rng = np.random.default_rng(1)
    sums = rng.normal(size=(3, 8)) + np.array([[0.0], [0.5], [1.0]])
    signs = np.array(list(itertools.product([-1, 1], repeat=8)))
    scaled = sums / np.sqrt((sums**2).sum(axis=1, keepdims=True))
    largest = np.abs(signs @ scaled.T).max(axis=1)
    exact = [(largest >= abs(row.sum()) - 1e-9).mean() for row in scaled]
    assert max_sign_flip(sums) == pytest.approx(exact, abs=0.02)


def test_equal_tests_need_no_correction_and_an_unchanged_one_shows_nothing() -> None:
    sums = np.random.default_rng(2).normal(size=16) + 0.6
    same, again, unchanged = max_sign_flip(np.array([sums, 3 * sums, 0 * sums]))
    assert same == again == pytest.approx(sign_flip(sums).p, abs=0.01)
    assert unchanged == 1


def test_many_tests_are_corrected_in_parts_as_at_once() -> None:
    sums = np.random.default_rng(3).normal(size=(600, 12))
    sums[7] += 2
    p = max_sign_flip(sums)
    scaled = sums / np.sqrt((sums**2).sum(axis=1, keepdims=True))
    signs = np.array(list(itertools.product([-1, 1], repeat=12)))
    largest = np.abs(signs @ scaled.T).max(axis=1)
    assert p[7] == pytest.approx((largest >= abs(scaled[7].sum()) - 1e-9).mean(), abs=0.02)


def test_the_best_of_many_cells_is_a_false_alarm_in_5_per_cent_of_sweeps() -> None:
    rng, runs, alarms = np.random.default_rng(4), 300, 0
    for _ in range(runs):
        alarms += min(max_sign_flip(rng.normal(size=(12, 30)) + rng.normal(size=30), draws=499)) <= 0.05
    assert alarms / runs == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / runs) ** 0.5)
