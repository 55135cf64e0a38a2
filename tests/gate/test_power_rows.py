"""What `gate power` and `gate init` make of a baseline: every row by its formula, written out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from support.gate.evidence_of import policy

from lm_eval_moe.gate import power
from lm_eval_moe.gate.first_policy import noise_margin, policy_text
from lm_eval_moe.gate.power import Planned, change_variance, power_rows

GRADED = Planned("essays", "en", 400, 0.6, True, False, 0.2, shared=True, correlation=0.75)
RIGHT = Planned("sums", "en", 400, 0.6, True, True, 0.0, shared=True, correlation=0.5)


def languages(planned: Planned, *names: str) -> list[Planned]:
    return [replace(planned, language=name) for name in names]


def caught(drop: float, stderr: float, alpha: float, margin: float) -> float:
    """How often a drop exceeds both the margin and the normal quantile."""
    return float(stats.norm.sf((max(margin, stats.norm.ppf(1 - alpha) * stderr) - drop) / stderr))


def test_a_test_for_every_language_and_for_every_average_of_several() -> None:
    sums, alone = languages(RIGHT, "en", "sw"), languages(replace(RIGHT, benchmark="alone"), "en")
    assert power.tests_of(policy(), languages(RIGHT, "en", "de", "sw")) == 3 + 1
    assert power.tests_of(policy(), [*sums, *alone]) == 2 + 1 + 1
    assert power.tests_of(policy(), [replace(RIGHT, language=None)]) == 1
    assert power.tests_of(policy(benchmarks={"sums": None}), [*sums, *alone]) == 2 + 1


@pytest.mark.parametrize(("correction", "factor"), [("holm", 4), ("bonferroni", 4), ("none", 1)])
def test_each_is_found_at_the_level_that_correction_leaves(correction: str, factor: int) -> None:
    own = languages(GRADED, "en", "de", "sw")
    rows = power_rows(policy(0.01, 0.01, correction=correction), own, tests=4, between=0.1, drops=[0.02])
    # Two runs' scores of an item have the variance 0.2 ** 2 each, and correlate by 0.75.
    variance = 2 * 0.2**2 * (1 - 0.75)
    for row in rows[:3]:
        assert row.chances == pytest.approx((caught(0.02, math.sqrt(variance / 400), 0.05 / factor, 0.01),))
    pairs = 3 + 6 * 0.1  # variances and covariances of the mean of three languages
    assert rows[3].name == "macro"
    assert rows[3].chances == pytest.approx((caught(0.02, math.sqrt(variance * pairs / 400) / 3, 0.05 / factor, 0.01),))


def test_languages_without_common_names_may_all_move_together() -> None:
    own = languages(replace(GRADED, shared=False), "en", "de")
    *_, macro = power_rows(policy(0.01, 0.01), own, tests=3, between=0.1, drops=[0.02])
    assert macro.chances == pytest.approx((caught(0.02, math.sqrt(0.02 / 400), 0.05 / 3, 0.01),))


def test_the_variance_of_a_change_is_that_of_drawn_answers() -> None:
    """Of right-or-wrong items, by simulation: two runs' answers that correlate, the second worse."""
    rng = np.random.default_rng(0)
    first = rng.random(400_000) < 0.7
    # Both right with P = 0.7 x 0.5 + 0.4 x sqrt(0.7 x 0.3 x 0.5 x 0.5).
    both = 0.7 * 0.5 + 0.4 * math.sqrt(0.7 * 0.3 * 0.25)
    second = np.where(first, rng.random(len(first)) < both / 0.7, rng.random(len(first)) < (0.5 - both) / 0.3)
    planned = replace(RIGHT, score=0.7, correlation=0.4)
    simulated = np.var(second.astype(float) - first.astype(float))
    assert change_variance(planned, 0.2) == pytest.approx(simulated, rel=0.01)


def test_the_first_margins_are_the_noise_rounded_up() -> None:
    """An unchanged run is within the margin in 80 of 100 cases: its bound at 5 % stays below it."""
    stderr = math.sqrt(0.02 / 400)
    margin = noise_margin(stderr, 0.05)
    assert stats.norm.cdf(margin / stderr - stats.norm.ppf(0.95)) == pytest.approx(0.8)
    assert margin == pytest.approx(0.01758, abs=1e-5)
    text = policy_text(
        languages(GRADED, "en", "sw"),
        metrics={"essays": "acc,none"},
        label="base",
        alpha=0.05,
        correlation=0.75,
        between=0.0,
        samples=True,
        spread={},
    )
    assert "en: 0.018 " in text
    assert "macro: 0.013\n" in text  # 0.01758 / sqrt(2) = 0.01243
