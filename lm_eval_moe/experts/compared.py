"""What a rule compares, for every expert and not only the chosen ones: what a heat map shows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.experts.selection import Found, explained_alone, matched_rule
from lm_eval_moe.steering import Choice
from lm_eval_moe.steering.layers import LayerExpression, LayerPart
from lm_eval_moe.steering.selectors.exclusive import ExclusiveExperts
from lm_eval_moe.steering.selectors.multilingual import MultilingualExperts
from lm_eval_moe.steering.selectors.risk_difference import RiskDifference
from lm_eval_moe.steering.selectors.shared import SharedExperts
from lm_eval_moe.steering.selectors.task import TaskExperts

__all__ = ["Compared", "compared"]

_ALL_LAYERS = LayerExpression((LayerPart(name="all"),))


@dataclass(frozen=True)
class Compared:
    """The number that a rule compares with its threshold.

    Attributes:
        values: ``[L, E]`` over all MoE layers; NaN where the rule leaves an expert out of the question.
        label: What the number is.
        signed: Whether it is a difference, around 0, or a share from 0 to 1.
    """

    values: NDArray[np.float64]
    label: str
    signed: bool


def compared(found: Found, index: int) -> Compared | None:
    """Return what an intervention's rule compares; None where it compares nothing, as a list of experts does.

    The rule itself is asked, with a threshold that everything meets, so that the numbers are those it decides by. For a
    random control it is the rule that the control matches.
    """
    rule = matched_rule(found.rules[index].rule)
    if isinstance(rule, TaskExperts):
        every = _every(found, index, replace(rule, threshold=-math.inf))
        return Compared(_grid(found, every, "difference"), "task - baseline, activation frequency", True)
    if isinstance(rule, MultilingualExperts):
        every = _every(found, index, replace(rule, threshold=-math.inf))
        label = f"largest difference to {rule.reference}, activation frequency"
        return Compared(_grid(found, every, "difference"), label, True)
    if isinstance(rule, RiskDifference):
        return Compared(_risk(found, index, rule), "P(selected, A) - P(selected, B)", True)
    if isinstance(rule, SharedExperts):
        every = _every(found, index, replace(rule, threshold=math.inf, source=None))
        return Compared(_grid(found, every), "share of the dominant language", False)
    if isinstance(rule, ExclusiveExperts):
        every = _every(found, index, replace(rule, threshold=0.0))
        return Compared(_grid(found, every), f"share of {' + '.join(rule.languages)}", False)
    return None


def _every(found: Found, index: int, rule: Any) -> list[Choice]:
    return explained_alone(found.spec, index, rule, found.plan.shape, found.store, layers=_ALL_LAYERS)


def _risk(found: Found, index: int, rule: RiskDifference) -> NDArray[np.float64]:
    """Return all risk differences.

    The rule takes at most K experts of a layer with a positive difference, but any number with a negative one: asked
    the other way round, it gives the rest.
    """
    both = replace(rule, top=None, threshold=-math.inf, direction="both")
    swapped = replace(both, profile_a=rule.profile_b, profile_b=rule.profile_a)
    values = _grid(found, _every(found, index, both), "difference")
    others = -_grid(found, _every(found, index, swapped), "difference")
    return np.where(np.isnan(values), others, values) + 0.0  # no negative zeros


def _grid(found: Found, choices: list[Choice], value: str | None = None) -> NDArray[np.float64]:
    """Put a value of the choices, or their coefficient, where they belong."""
    shape = found.plan.shape
    grid = np.full((len(shape.layers), shape.experts), np.nan)
    rows = {layer: row for row, layer in enumerate(shape.layers)}
    for choice in choices:
        grid[rows[choice.layer], choice.expert] = choice.coefficient if value is None else choice.values[value]
    return grid
