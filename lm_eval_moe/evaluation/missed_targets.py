"""Does steering reach the selection? Logits are not the last word where a model groups or biases its experts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from lm_eval_moe.routing_fields.steered import STEERED_SELECTION
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from lm_eval_moe.evaluation.tallies import TaskTally
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["shortfall"]

# A share of tokens that is not worth a warning: a tie here and there.
_TOLERANCE = 0.005


def shortfall(plan: SteeringPlan, tallies: Iterable[TaskTally]) -> Iterator[str]:
    """Yield a warning where activated experts were missed, or masked ones selected, without the guard.

    Args:
        plan: The steering in force.
        tallies: Of all tasks and processes; their curve ``steered_selection`` is the share of tokens at which at
            least one targeted expert was selected.
    """
    sums = sum(
        (tally.curves.get(STEERED_SELECTION.curve.name, 0) for tally in tallies), np.zeros((2, len(plan.shape.layers)))
    )
    totals, counts = np.asarray(sums)
    too_low, leaked = {}, {}
    for layer, total, count in zip(plan.shape.layers, totals, counts, strict=True):
        here = [intervention for intervention in plan.interventions if layer in intervention.targets]
        aims = {None if intervention.guard else intervention.action.guards_by for intervention in here}
        if count and aims == {"force"} and total / count < 1 - _TOLERANCE:
            too_low[layer] = total / count
        if count and aims == {"ban"} and total / count > _TOLERANCE:
            leaked[layer] = total / count
    parts = []
    if too_low:
        parts.append(
            f"in layers {format_ranges(list(too_low))} an activated expert was selected at only "
            f"{np.mean(list(too_low.values())):.0%} of the tokens"
        )
    if leaked:
        parts.append(
            f"in layers {format_ranges(list(leaked))} a masked expert was selected at "
            f"{np.mean(list(leaked.values())):.1%} of the tokens"
        )
    if parts:
        yield (
            f"the steering {plan.name!r} falls short: {'; '.join(parts)}. The model's expert groups or its selection "
            "bias act after the router logits, or ties were broken against the targets; write `guard: true` in the "
            "intervention to make sure"
        )
