"""The gain over random controls, against hand-worked numbers and simulations of known truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import t

from lm_eval_moe.statistics import (
    ClusteredValues,
    draws_needed,
    gain_over_controls,
    gain_over_means,
    judge,
    mean_gain,
)


def test_one_language_and_two_controls_by_hand() -> None:
    steered = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0}
    first = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}
    second = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 1.0}
    found = gain_over_controls([steered], [[first], [second]])
    # Per item against the mean of the controls: .5, .5, 0, .5, with mean .375 and sum of squares .1875 around it.
    assert found.steered == 0.75
    assert found.per_control == (0.25, 0.5)
    assert found.gain == pytest.approx(0.375)
    # The controls have .5, 0, 0, -.5 for themselves: twice .5 / 3 / 4, more than items add.
    assert 0.1875 / 3 / 4 < 0.5 * 2 * 0.5 / 3 / 4
    assert found.stderr == pytest.approx((0.03125 / 2) ** 0.5)
    assert found.high == pytest.approx(0.375 + t.ppf(0.975, 1) * (0.03125 / 2) ** 0.5)
    assert found.new_draw_low == pytest.approx(0.375 - t.ppf(0.975, 1) * (0.03125 * 1.5) ** 0.5)
    assert found.covers_draws
    assert (found.rank_p, found.least_rank_p) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_the_intervals_are_those_of_a_two_way_analysis_of_variance() -> None:
    rng = np.random.default_rng(3)
    items, draws = 40, 5
    controls = rng.normal(size=(draws, items)) * 0.5 + rng.normal(size=(draws, 1)) * 0.2
    steered = rng.normal(size=items) * 2 + 0.4
    found = gain_over_controls([dict(enumerate(steered))], [[dict(enumerate(each))] for each in controls])
    table = steered - controls
    rows, columns = table.mean(1), table.mean(0)
    error = ((table - rows[:, None] - columns + table.mean()) ** 2).sum() / ((draws - 1) * (items - 1))
    for k, low in ((1 / draws, found.low), (1 + 1 / draws, found.new_draw_low)):
        spread, extra = k * rows.var(ddof=1), columns.var(ddof=1) / items - k * error / items
        half = (t.ppf(0.975, draws - 1) ** 2 * spread + t.ppf(0.975, items - 1) ** 2 * extra) ** 0.5
        assert extra > 0
        assert low == pytest.approx(table.mean() - half)


def test_a_set_that_is_one_more_random_draw_differs_from_the_mean_but_not_from_a_draw() -> None:
    rng = np.random.default_rng(4)
    runs, mean, draw, rank = 400, 0, 0, 0
    for _ in range(runs):
        values = rng.normal(size=(20, 1)) * 0.3 + rng.normal(size=(20, 50))
        found = gain_over_controls(*of_items(values))
        mean, draw, rank = mean + found.differs_from_mean, draw + found.differs_from_draw, rank + (found.rank_p == 0.05)
    assert mean / runs > 0.15
    noise = 3 * (0.05 * 0.95 / runs) ** 0.5
    assert draw / runs == pytest.approx(0.05, abs=noise)
    assert rank / runs == pytest.approx(0.05, abs=noise)


@pytest.mark.parametrize("draws", [2, 3, 10])
def test_the_p_of_a_new_draw_is_below_5_per_cent_exactly_if_its_interval_leaves_out_0(draws: int) -> None:
    sides = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = (rng.random((draws + 1, 12)) < 0.5).astype(float)
        values[0] = rng.random(12) < rng.random()
        found = gain_over_controls(*of_items(values))
        if found.new_draw_low is not None and found.new_draw_high is not None and found.new_draw_p is not None:
            outside = not found.new_draw_low <= 0 <= found.new_draw_high
            assert outside == (found.new_draw_p < 0.05)
            assert found.new_draw_low <= (found.low or 0.0)
            sides.add(outside)
    assert False in sides


def test_the_rank_counts_ties_and_follows_the_direction() -> None:
    steered, controls = of_items(np.array([[0.5, 0.5], [0.6, 0.4], [0.1, 0.2], [0.9, 0.9]]))
    assert gain_over_controls(steered, controls).rank_p == 3 / 4
    assert gain_over_controls(steered, controls, higher_is_better=False).rank_p == 3 / 4
    best, worse = of_items(np.array([[1.0, 1.0], [0.6, 0.4]] + [[0.1, 0.2]] * (draws_needed() - 1)))
    assert gain_over_controls(best, worse).rank_p == pytest.approx(0.05)
    assert gain_over_controls(best, worse, higher_is_better=False).rank_p == 1
    assert (draws_needed(), draws_needed(0.01)) == (19, 99)


def test_what_is_known_by_means_gives_no_narrower_intervals() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        whole = gain_over_controls(*of_items(rng.normal(size=(5, 400)) + rng.normal(size=(5, 1)) * 0.1 * (seed % 3)))
        means = gain_over_means(whole.steered, whole.per_control, whole.stderr)
        assert means.rank_p == whole.rank_p
        assert means.low == pytest.approx(whole.low, abs=0.002)
        assert means.new_draw_high is not None
        assert whole.new_draw_high is not None
        assert means.new_draw_high >= whole.new_draw_high - 0.002


def test_draws_and_items_of_a_mean_over_languages_may_be_the_same_in_all() -> None:
    one = gain_over_means(0.6, [0.5, 0.52, 0.4], 0.05)
    mean = mean_gain([one, one])
    assert one.stderr is not None
    assert mean.stderr == pytest.approx(one.stderr)  # a copy tells nothing new
    assert mean_gain([one]).stderr == pytest.approx(one.stderr)
    # Where the draws differ otherwise in another language, they cancel out; the items' parts, .03 and .05, need not.
    first, second = (gain_over_means(0.6, drawn, 0.0) for drawn in ([0.5, 0.52, 0.4], [0.4, 0.38, 0.5]))
    first, second = (
        replace(gain, stderr=np.hypot(np.std(gain.per_control, ddof=1) / 3**0.5, items))
        for gain, items in ((first, 0.03), (second, 0.05))
    )
    assert mean_gain([first, second]).stderr == pytest.approx(0.04)


def of_items(values: Any) -> tuple[list[dict[int, float]], list[list[dict[int, float]]]]:
    steered, *controls = [[dict(enumerate(row.tolist()))] for row in values]
    return steered, controls


def test_one_control_gives_the_interval_of_any_two_runs() -> None:
    rng = np.random.default_rng(0)
    steered, control = rng.normal(size=(2, 30))
    found = gain_over_controls([dict(enumerate(steered))], [[dict(enumerate(control))]])
    interval = judge(ClusteredValues.of([list(enumerate(steered - control))])).interval
    assert (found.low, found.high) == pytest.approx(interval)
    assert not found.covers_draws


def test_an_item_in_two_languages_is_one_cluster() -> None:
    # The second language repeats the first: no new information, so the same error.
    steered, control = {"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 0.0, "b": 0.0, "c": 1.0}
    once = gain_over_controls([steered], [[control]])
    twice = gain_over_controls([steered, steered], [[control, control]])
    assert twice.stderr == pytest.approx(once.stderr)
    assert twice.gain == pytest.approx(once.gain)


@pytest.mark.parametrize(("draws", "spread"), [(2, 0.6), (3, 0.6), (4, 0.15)])
def test_the_intervals_cover_the_truth_in_at_least_95_per_cent_of_simulations(draws: int, spread: float) -> None:
    rng = np.random.default_rng(1)
    mean, new, runs = 0, 0, 600
    for _ in range(runs):
        effects = [0.3, *rng.normal(scale=spread, size=draws)]
        values = rng.normal(size=60) + np.array(effects)[:, None] + rng.normal(scale=0.5, size=(draws + 1, 60))
        found = gain_over_controls(*of_items(values))
        assert found.low is not None
        assert found.high is not None
        assert found.new_draw_low is not None
        assert found.new_draw_high is not None
        mean += found.low <= 0.3 <= found.high
        new += found.new_draw_low <= 0.3 - rng.normal(scale=spread) <= found.new_draw_high
    assert min(mean, new) / runs > 0.95 - 3 * (0.95 * 0.05 / runs) ** 0.5


@pytest.mark.parametrize("languages", [1, 2])
@pytest.mark.parametrize("kind", ["right or wrong", "skewed", "alike"])
def test_one_control_is_judged_as_any_pair_of_runs(kind: str, languages: int) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        steered, control = rng.integers(0, 2, (2, languages, 26)).astype(float)
        if kind == "skewed":  # a t interval would see 0 where the test does not
            steered = control + rng.exponential(size=control.shape) ** 3 * (rng.random(control.shape) < 0.9)
        elif kind == "alike":
            steered = control.copy()
        runs = [[dict(enumerate(values)) for values in run] for run in (steered, control)]
        found = gain_over_controls(runs[0], runs[1:])
        judged = judge(ClusteredValues.of([list(enumerate(values)) for values in steered - control]))
        assert found.differs_from_mean == judged.beyond
        assert found.identical == (judged.verdict == "identical") == (kind == "alike")
        assert (None if found.low is None else (found.low, found.high)) == judged.interval
        assert (found.gain, found.stderr) == (judged.difference.value, judged.difference.stderr)


def test_equal_runs_have_no_gain_and_no_error() -> None:
    values = {"a": 1.0, "b": 0.0}
    found = gain_over_controls([values], [[values], [values]])
    assert (found.gain, found.stderr, found.low, found.high) == (0.0, 0.0, None, None)
    assert found.identical


@pytest.mark.parametrize("controls", [[], [[{"a": 1.0}]], [[{"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 0.0}]]])
def test_controls_of_other_items_are_refused(controls: list[list[dict[str, float]]]) -> None:
    with pytest.raises(ValueError, match="items of the steered run"):
        gain_over_controls([{"a": 1.0, "b": 0.0}], controls)


def test_a_single_item_has_no_interval() -> None:
    found = gain_over_controls([{"a": 1.0}], [[{"a": 0.0}], [{"a": 1.0}]])
    assert (found.gain, found.stderr, found.low) == (0.5, None, None)
