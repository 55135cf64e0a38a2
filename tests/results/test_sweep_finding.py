"""What is said of a sweep: the best cell by the metric's direction, corrected over the cells it was chosen among."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from scipy.stats import t

from lm_eval_moe.number_text import Scale
from lm_eval_moe.results import Metric
from lm_eval_moe.results.sweep_finding import sweep_finding
from lm_eval_moe.results.sweeps import SweepBenchmark, SweepCell, SweepEffect
from lm_eval_moe.statistics import Difference, gain_over_means


def said_of(steered: Sequence[float], controls: Sequence[float], *, higher_is_better: bool = True) -> str:
    cells = [
        SweepCell(
            {"strength": number},
            f"{number}" * 64,
            4,
            (),
            {
                "en": SweepEffect(
                    0.5,
                    Difference(score - 0.5, 0.01, "paired", 3, 20, 20),
                    None,
                    0.0,
                    gain_over_means(score, controls, 0.004, higher_is_better=higher_is_better),
                )
            },
        )
        for number, score in enumerate(steered)
    ]
    metric = Metric("acc", "none")
    benchmark = SweepBenchmark("sums", metric, higher_is_better, None, ("en",), tuple(cells), 0, ())
    return sweep_finding(benchmark, Scale(metric, plain=True))


AROUND_HALF = [0.49, 0.5, 0.51]


@pytest.mark.parametrize(("higher_is_better", "best", "gain"), [(True, 2, "+30.0"), (False, 1, "-30.0")])
def test_the_best_cell_is_so_in_the_direction_of_the_metric(higher_is_better: bool, best: int, gain: str) -> None:
    said = said_of([0.5, 0.2, 0.8], AROUND_HALF, higher_is_better=higher_is_better)
    assert f"Largest gain over random controls: {best}, {gain} percentage points" in said
    assert said.endswith("Of 3 cells, 1 is better and 1 worse than a random set beyond noise.")
    assert "the best of 3 cells" in said


def test_cells_are_corrected_for_each_other() -> None:
    """By Holm: the p of one cell alone, of Student's t over three draws, is doubled where there are two."""
    p = 2 * t.sf(0.057 / math.sqrt(0.01**2 * (1 + 1 / 3)), 2)
    assert 0.025 < p < 0.05 < 2 * p
    alone, beside = said_of([0.557], AROUND_HALF), said_of([0.557, 0.5], AROUND_HALF)
    assert f"it has p = {p:.2g} after" in alone
    assert "1 is better" in alone
    assert f"it has p = {2 * p:.2g} after" in beside
    assert "Of 2 cells, none differs" in beside


@pytest.mark.parametrize(("draws", "few"), [(18, True), (19, False)])
def test_the_rank_can_reach_five_per_cent_from_nineteen_draws_on(draws: int, few: bool) -> None:
    said = said_of([0.8], [0.5 + 0.001 * number for number in range(draws)])
    assert f"its rank p = {1 / (draws + 1):.2g}" in said
    assert ("which can reach 0.05 only with 19 draws or more" in said) == few
