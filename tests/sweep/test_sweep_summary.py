"""What a sweep's runs add up to: every cell beside the mean of all its controls, from results written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support.written_results import results_of

from lm_eval_moe.results.sweeps import SweepEffect
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import SteeringPlan, parse_spec, resolve
from lm_eval_moe.steering.control import random_control
from lm_eval_moe.sweep.cells import PlannedCell
from lm_eval_moe.sweep.store import BASELINE
from lm_eval_moe.sweep.summary import summarise

SHAPE = RoutingShape(tuple(range(8)), 16, 2, 8)
NONE, HALF, ALL = [0] * 12, [1, 0] * 6, [1] * 12


def plan_of(strength: float) -> SteeringPlan:
    entry = {"layers": [2], "experts": {"ids": {2: [1, 5]}}, "action": {"soft": strength}}
    return resolve(parse_spec({"version": 1, "name": "soft", "interventions": [entry]}), SHAPE)


def effects_of(baseline: Sequence[int], *cells: Sequence[Sequence[int]]) -> list[dict[str, SweepEffect]]:
    """Return the effects of cells: each its own scores in Swahili, then those of its controls; English never moves."""

    def results(scores: Sequence[int], plan: SteeringPlan | None = None) -> dict[str, Any]:
        content = results_of({"en": HALF, "sw": scores})
        content["routing"]["steering"] = plan and plan.to_dict()
        return content

    store: Any = {BASELINE: results(baseline)}
    planned = []
    for number, (own, *controls) in enumerate(cells):
        plan = plan_of(0.1 * (number + 1))
        drawn = tuple(random_control(plan, seed) for seed in range(1, len(controls) + 1))
        store |= {
            each.hash: results(scores, each) for each, scores in zip((plan, *drawn), (own, *controls), strict=True)
        }
        planned.append(PlannedCell({"strength": number}, plan, drawn))

    class Store(dict[str, Any]):
        def read(self, name: str) -> Any:
            return self[name]

    (summary,) = summarise(planned, (), Store(store))  # type: ignore[arg-type]
    assert len(summary.cells) == len(cells)
    return [dict(cell.effects) for cell in summary.cells]


def test_a_cell_is_compared_with_the_mean_of_all_its_controls() -> None:
    (effects,) = effects_of(HALF, (ALL, ALL, NONE))
    assert effects["sw"].gain.value == 0.5
    assert effects["sw"].control == 0.0  # half of the items right on average, as in the baseline
    assert effects["sw"].over_control is not None
    assert effects["sw"].over_control.gain == 0.5
    # Of 2 ** 12 ways to turn the items two are as far; one of 10,000 patterns is the data themselves.
    assert effects["sw"].corrected_p == pytest.approx(2 / 2**12, abs=6e-4)
    assert effects["en"].corrected_p == 1
    assert effects["mean"].gain.value == 0.25


def test_cells_and_languages_are_corrected_for_each_other() -> None:
    """Two items better of two that changed, in each of five cells of other items: some cell shows that always."""
    alike = [[1 if item in (number, number + 5) else 0 for item in range(12)] for number in range(5)]
    alone, beside = effects_of(NONE, (alike[0], NONE)), effects_of(NONE, *((own, NONE) for own in alike))
    assert alone[0]["sw"].corrected_p == pytest.approx(0.5, abs=0.03)
    # The largest of five reaches it unless in every cell the two signs differ.
    assert beside[0]["sw"].corrected_p == pytest.approx(1 - 0.5**5, abs=0.03)
