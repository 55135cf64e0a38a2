"""The gain over random controls, against hand-worked numbers and simulations of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from lm_eval_moe.statistics import ClusteredValues, gain_over_controls, judge


def test_one_language_and_two_controls_by_hand() -> None:
    steered = {"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0}
    first = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}
    second = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 1.0}
    found = gain_over_controls([steered], [[first], [second]])
    # Per item against the mean of the controls: .5, .5, 0, .5, with mean .375 and sum of squares .1875 around it.
    assert found.steered == 0.75
    assert found.per_control == (0.25, 0.5)
    assert found.gain == pytest.approx(0.375)
    items = 0.1875 / 3 / 4
    among = 0.03125 / 2
    assert found.stderr == pytest.approx((items + among) ** 0.5)
    freedom = (items + among) ** 2 / (items**2 / 3 + among**2 / 1)
    assert found.high == pytest.approx(0.375 + t.ppf(0.975, freedom) * (items + among) ** 0.5)
    assert found.covers_draws


def test_one_control_gives_the_paired_t_interval_of_the_items() -> None:
    rng = np.random.default_rng(0)
    steered, control = rng.normal(size=(2, 30))
    found = gain_over_controls([dict(enumerate(steered))], [[dict(enumerate(control))]])
    from scipy.stats import ttest_rel

    interval = ttest_rel(steered, control).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert not found.covers_draws


def test_an_item_in_two_languages_is_one_cluster() -> None:
    # The second language repeats the first: no new information, so the same error.
    steered, control = {"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 0.0, "b": 0.0, "c": 1.0}
    once = gain_over_controls([steered], [[control]])
    twice = gain_over_controls([steered, steered], [[control, control]])
    assert twice.stderr == pytest.approx(once.stderr)
    assert twice.gain == pytest.approx(once.gain)


def test_the_interval_covers_the_truth_in_at_least_95_per_cent_of_simulations() -> None:
    rng = np.random.default_rng(1)
    covered, runs = 0, 600
    for _ in range(runs):
        difficulty = rng.normal(size=60)
        draws = rng.normal(scale=0.15, size=4)
        steered = difficulty + 0.3 + rng.normal(scale=0.5, size=60)
        controls = difficulty + draws[:, None] + rng.normal(scale=0.5, size=(4, 60))
        found = gain_over_controls([dict(enumerate(steered))], [[dict(enumerate(each))] for each in controls])
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert covered / runs > 0.95 - 3 * (0.95 * 0.05 / runs) ** 0.5


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
        assert found.beyond == judged.beyond
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
