"""A quick run of the simulation script: false alarms stay below alpha, power is as computed."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gate_simulation.py"
PAIRS = 300


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gate_simulation", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gate_simulation"] = module
    spec.loader.exec_module(module)
    return module


def test_simulated_answers_are_what_they_are_said_to_be(simulation: ModuleType) -> None:
    answers = simulation.Answers()
    level = answers.levels(simulation.ACCURACY)
    one, other = answers.draw(np.random.default_rng(3), level, level, 100_000)
    assert one.mean(axis=1) == pytest.approx(simulation.ACCURACY, abs=0.006)
    assert np.corrcoef(one[0], one[5])[0, 1] > 0.2  # the same item in two languages
    assert np.corrcoef(one[0], other[0])[0, 1] > 0.4  # in two runs


def test_equal_runs_raise_an_alarm_no_more_often_than_alpha(simulation: ModuleType) -> None:
    alarms = simulation.simulate_null(
        PAIRS,
        100,
        {
            "holm": simulation.policy_of(0.0, 0.0),
            "without samples": simulation.policy_of(0.0, 0.0, samples="preferred"),
            "none": simulation.policy_of(0.0, 0.0, correction="none"),
        },
        seed=0,
    )
    for name in ("holm", "without samples"):
        assert stats.binomtest(alarms[name], PAIRS, 0.05, alternative="greater").pvalue > 0.01
    assert alarms["none"] / PAIRS > 0.15  # what the correction is for


def test_a_real_drop_is_caught_as_often_as_gate_power_says(simulation: ModuleType) -> None:
    rates = simulation.simulate_drop(PAIRS, 100, simulation.policy_of(0.03, 0.02), 0.1, seed=0)
    for kind in ("one language", "all languages"):
        predicted = rates[f"{kind}, predicted"]
        error = np.sqrt(predicted * (1 - predicted) / PAIRS)
        assert rates[kind] == pytest.approx(predicted, abs=3 * error + 0.005)
    assert 0.1 < rates["one language"] < 0.9  # neither never nor always: the comparison means something
