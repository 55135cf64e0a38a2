"""Intervals agree with their tests, whatever the data; their ends are what they are said to be, and they cover."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from support.score_oracle import score_interval, score_of_values

from lm_eval_moe.statistics import Judgement, corrected, is_beyond_chance, judge, judge_unpaired, unpaired
from lm_eval_moe.statistics.differences import ClusteredValues, Estimate
from lm_eval_moe.statistics.judgement import paired_drop
from lm_eval_moe.statistics.paired_tests import mcnemar_end, sign_flip_end
from lm_eval_moe.statistics.score_bound import score_bounds, score_upper_bound

Groups = list[list[tuple[int, float]]]

RIGHT_OR_WRONG = st.sampled_from([-1.0, 0.0, 0.0, 0.0, 1.0])
GRADED = st.sampled_from([-0.5, 0.0, 0.0, 0.25, 1.0]) | st.floats(-3, 3) | st.floats(-1000, 1000)
LEVELS = st.sampled_from([0.001, 0.01, 0.05, 0.0625, 0.1, 0.3])


@st.composite
def groups(draw: st.DrawFn) -> Groups:
    """Return one to three languages of differences: right or wrong or graded, of the same items or partly of others."""
    values = draw(st.sampled_from([RIGHT_OR_WRONG, GRADED]))
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    return [
        [(first + item, draw(values)) for item in range(size)]
        for size in sizes
        for first in [draw(st.sampled_from([0, 0, 5, 100]))]
    ]


def changes(better: int, worse: int, n: int) -> Groups:
    return [list(enumerate([1.0] * better + [-1.0] * worse + [0.0] * (n - better - worse)))]


def judged(of: Groups, alpha: float = 0.05) -> Judgement:
    return judge(ClusteredValues.of(of), alpha)


def leaves_out_0(judgement: Judgement) -> bool:
    assert judgement.interval is not None
    low, high = judgement.interval
    assert low <= judgement.difference.value <= high
    return not low <= 0 <= high


@settings(deadline=None, max_examples=400)
@given(groups(), LEVELS)
@example(changes(15, 6, 200), 0.05)  # the score interval leaves out 0, the exact test does not
@example(changes(5, 0, 20), 0.0625)  # p is the level itself
@example([[(item, 1.0) for item in range(19)] + [(19, 1000.0)]], 0.05)  # so wide a spread, and p is 2 / 2^20
@example([[(item, 0.5) for item in range(3)]], 0.05)  # no spread, and too few items to refute anything
def test_an_interval_leaves_out_0_exactly_if_p_is_below_its_level(of: Groups, alpha: float) -> None:
    judgement = judged(of, alpha)
    assert judgement.p is not None
    if judgement.interval is None:
        assert judgement.difference.changed == 0 or judgement.difference.stderr is None
        assert not judgement.beyond
    else:
        assert leaves_out_0(judgement) == (judgement.p < alpha) == judgement.beyond


def test_the_level_is_five_per_cent_where_nobody_asks_for_another() -> None:
    """The normal quantile is 1.960: a difference of 1.95 standard errors is noise, one of 1.97 is not."""
    for errors, beyond in ((1.95, False), (1.97, True)):
        judgement = judge_unpaired(unpaired([Estimate(0.0, 0.6)], [Estimate(errors, 0.8)]))  # together 1
        assert judgement.beyond == beyond
        assert judgement.interval == pytest.approx(stats.norm.interval(0.95, errors, 1.0), abs=1e-9)
    for better, beyond in ((9, False), (10, True)):  # against 2: p is 0.065, and 0.039
        judgement = judged(changes(better, 2, 60))
        assert judgement.beyond == beyond
        assert judgement.p == pytest.approx(stats.binomtest(2, better + 2).pvalue)


def test_a_p_that_is_the_level_is_not_below_it() -> None:
    assert not is_beyond_chance(0.05, 0.05)
    assert is_beyond_chance(np.nextafter(0.05, 0), 0.05)
    assert not is_beyond_chance(None, 0.05)


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05, 0.1, 0.25])
def test_every_number_of_changed_items_on_either_side_of_the_level(alpha: float) -> None:
    sides = set()
    for better, worse in itertools.product(range(26), repeat=2):
        if better + worse:
            judgement = judged(changes(better, worse, 60), alpha)
            assert leaves_out_0(judgement) == judgement.beyond
            sides.add(judgement.beyond)
    assert sides == {True, False}


@given(st.floats(-1, 1).map(lambda x: round(x, 3)), st.sampled_from([0.0, 0.1, 0.5, 1 / 3]), LEVELS)
def test_unpaired_intervals_agree_too(value: float, stderr: float, alpha: float) -> None:
    judgement = judge_unpaired(unpaired([Estimate(0.0, 0.0)], [Estimate(value, stderr)]), alpha)
    assert leaves_out_0(judgement) == judgement.beyond


@settings(deadline=None, max_examples=200)
@given(groups(), st.sampled_from([0.01, 0.025, 0.05, 0.1]))
@example(changes(6, 15, 200), 0.05)
def test_a_drop_is_the_one_sided_judgement_of_the_same_test(of: Groups, alpha: float) -> None:
    """Its p is half, its bound an end of the interval at twice the level; turned round it is the other end."""
    two_sided = judged(of, 2 * alpha)
    for sign in (1, -1):
        drop = paired_drop([[(item, sign * value) for item, value in group] for group in of], alpha=alpha)
        assert two_sided.p is not None
        assert drop.p is not None
        if drop.value > 0:
            assert drop.p == pytest.approx(two_sided.p / 2, rel=1e-9)
            assert is_beyond_chance(drop.p, alpha) == two_sided.beyond
        if two_sided.interval is not None and drop.upper is not None:
            end = two_sided.interval[1] if sign == 1 else -two_sided.interval[0]
            assert drop.upper == pytest.approx(end, rel=1e-9, abs=1e-12)
            assert (drop.upper < 0) == (two_sided.beyond and drop.value < 0)


@settings(deadline=None, max_examples=100)
@given(groups(), st.randoms(use_true_random=False))
def test_neither_the_order_of_items_and_languages_nor_of_the_runs_matters(of: Groups, random: object) -> None:
    there = judged(of)
    turned = [[(item, -value) for item, value in reversed(group)] for group in reversed(of)]
    back = judged(turned)
    assert back.p == pytest.approx(there.p, rel=1e-6)
    assert (back.interval is None) == (there.interval is None)
    if back.interval and there.interval:
        assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]), rel=1e-6, abs=1e-9)


def test_the_pair_that_three_tests_judged_differently() -> None:
    """Of 200 items 15 are better and 6 worse: not beyond chance in either direction, one-sided just so."""
    judgement = judged(changes(15, 6, 200))
    assert judgement.p == pytest.approx(stats.binomtest(15, 21).pvalue)
    assert judgement.p == pytest.approx(0.0784, abs=1e-4)
    low, high = judgement.interval or (0.0, 0.0)
    assert low < 0
    assert high == pytest.approx(score_interval(15, 6, 200, 0.95)[1], abs=1e-6)
    assert score_interval(15, 6, 200, 0.95)[0] > 0  # what the score test would say
    assert paired_drop([[(i, -x) for i, x in changes(6, 15, 200)[0]]], alpha=0.05).p == pytest.approx(0.0392, abs=1e-4)
    assert judged(changes(16, 5, 200)).beyond


@pytest.mark.parametrize(("better", "worse"), [(1, 0), (5, 2), (15, 6), (40, 39), (300, 250)])
@pytest.mark.parametrize("tail", [0.005, 0.025, 0.05])
def test_the_end_of_mcnemars_test_is_clopper_and_pearsons_bound(better: int, worse: int, tail: float) -> None:
    share = proportion_confint(better, better + worse, alpha=2 * tail, method="beta")[0]
    assert mcnemar_end(better, worse, 1000, tail) == pytest.approx((better + worse) / 1000 * (2 * share - 1), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_end_of_the_sign_flip_test_is_where_all_patterns_turn_from_refuting_a_mean(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(0.8, 1.0, (2, 12))
    values[1, generator.random(12) < 0.3] = 0.0
    of = ClusteredValues.of([list(enumerate(row)) for row in values])
    by_item = values.mean(axis=0)
    signs = np.array(list(itertools.product([1.0, -1.0], repeat=12)))

    def p(mean: float) -> float:
        return float((np.abs(signs @ (by_item - mean)) >= abs((by_item - mean).sum()) - 1e-9).mean())

    end = sign_flip_end(of, 0.025, beyond=p(0.0) < 0.05, draws=99_999)
    assert p(end) == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 99_999) + 2 / 4096)


@pytest.mark.parametrize(
    ("n", "changed", "least"), [(100, 0.03, 0.96), (100, 0.06, 0.93), (100, 0.15, 0.93), (250, 0.03, 0.935)]
)
@pytest.mark.parametrize("share", [0.5, 0.75, 0.9, 1.0])
def test_right_or_wrong_intervals_cover_where_few_items_change(
    n: int, changed: float, least: float, share: float
) -> None:
    """A sum over all outcomes in which an item changed; where 3 of 100 change, Student's t covers 80 to 97 %."""
    better, worse = changed * share, changed * (1 - share)
    most = int(stats.binom.isf(1e-6, n, changed)) + 1
    covered = total = 0.0
    for up, down in itertools.product(range(most + 1), repeat=2):
        if 0 < up + down <= most:
            chance = stats.multinomial.pmf([up, down, n - up - down], n, [better, worse, 1 - changed])
            low, high = judged(changes(up, down, n)).interval or (0.0, 0.0)
            total += chance
            covered += chance * (low <= better - worse <= high)
    assert covered / total >= least


@pytest.mark.parametrize(
    ("languages", "items", "changed", "graded"),
    [(3, 60, 0.13, False), (11, 30, 0.03, False), (11, 100, 0.01, False), (11, 15, 0.1, True), (1, 100, 0.03, True)],
)
def test_means_cover_by_simulation(languages: int, items: int, changed: float, graded: bool) -> None:
    """Half of the items do the same in all languages. Student's t covers 80 to 91 % where next to nothing changes."""
    generator = np.random.default_rng(5)
    covered = total = 0
    for _ in range(400):
        own = generator.choice([-1.0, 0.0, 1.0], p=[changed / 4, 1 - changed, changed * 3 / 4], size=(languages, items))
        moved = np.where(generator.random(items) < 0.5, own[:1], own)
        moved *= generator.choice([0.25, 0.5, 0.75, 1.0], size=moved.shape) if graded else 1.0
        interval = judged([list(enumerate(row)) for row in moved]).interval
        if interval is not None:
            total += 1
            covered += interval[0] <= changed / 2 * (0.625 if graded else 1.0) <= interval[1]
    assert total > 200
    assert stats.binomtest(covered, total, 0.95, alternative="less").pvalue > 0.01


VALUES = st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.0, 0.0, 0.25, 0.5, 1.0]), min_size=4, max_size=30)


@settings(deadline=None, max_examples=60)
@given(VALUES, st.sampled_from([1.0, 1.5]), st.sampled_from([0.005, 0.025, 0.1]))
@example([0.0] * 9 + [0.25], 1.0, 0.025)  # a change that was not seen takes what is missing
def test_a_score_bound_is_where_the_likelihoods_spread_refutes_it(
    values: list[float], largest: float, tail: float
) -> None:
    seen, counts = np.unique(values, return_counts=True)
    bound = score_upper_bound(seen, counts, largest, float(stats.norm.isf(tail)))
    assert np.mean(values) <= bound <= largest
    if np.mean(values) < bound < 0.98 * largest:
        assert score_of_values(values, largest, bound) == pytest.approx(stats.norm.isf(tail), abs=2e-3)


@pytest.mark.parametrize(("better", "worse", "n"), [(3, 0, 100), (5, 2, 15), (0, 4, 30), (40, 31, 250), (9, 0, 12)])
def test_of_right_or_wrong_items_the_score_bounds_are_tangos(better: int, worse: int, n: int) -> None:
    found = score_bounds(ClusteredValues.of(changes(better, worse, n)), 0.025)
    assert found == pytest.approx(score_interval(better, worse, n, 0.95), abs=1e-6)


def test_an_item_may_be_as_far_away_as_between_any_item_and_any_item_in_one_language() -> None:
    """One of 40 items got better in one of four languages: there 159/160 from the mean, and a fourth in all."""
    of = ClusteredValues.of([[(item, float(item == lang == 0)) for item in range(40)] for lang in range(4)])
    values, counts, away = np.array([0.0, 0.25]), np.array([39, 1]), 159 / 320
    low, high = score_bounds(of, 0.025)
    critical = float(stats.t.isf(0.025, 39))
    assert high == pytest.approx(score_upper_bound(values, counts, 1 / 160 + away, critical))
    assert low == pytest.approx(-score_upper_bound(-values[::-1], counts[::-1], away - 1 / 160, critical))


def test_where_all_items_change_alike_the_score_interval_is_next_to_students() -> None:
    values = np.random.default_rng(2).normal(-0.083, 0.01, 12)
    found = judged([list(enumerate(values))]).interval
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found == pytest.approx((expected.low, expected.high), abs=0.002)


def test_a_family_is_corrected_by_holm_and_what_has_no_p_is_no_test() -> None:
    family = [judged(changes(better, 2, 80)) for better in (12, 9, 14, 2)]
    unknown = judge_unpaired(unpaired([Estimate(0.5, None)], [Estimate(0.6, 0.1)]))
    expected = multipletests([judgement.p for judgement in family], method="holm")[1]
    found = corrected([family[0], unknown, *family[1:]])
    assert [judgement.adjusted_p for judgement in (found[0], *found[2:])] == pytest.approx(list(expected))
    assert found[1] == unknown
    assert [judgement.p for judgement in found] == [family[0].p, None, *(judgement.p for judgement in family[1:])]
