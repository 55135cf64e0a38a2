"""The matched random control of a plan: the same steering of as many other experts (arXiv 2510.04694)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lm_eval_moe.errors import UserError
from lm_eval_moe.steering.plan import LayerTargets, PlannedIntervention, SteeringPlan, plan_hash
from lm_eval_moe.steering.selectors.random_control import RandomControl, draw
from lm_eval_moe.yaml_values import YamlPlace

__all__ = ["random_control"]


def random_control(plan: SteeringPlan, seed: int) -> SteeringPlan:
    """Return a plan's control: that of its file with ``random: {like: ..., seed: ...}`` around every selection rule.

    Args:
        plan: The plan to match.
        seed: Of the draw.

    Raises:
        UserError: The plan draws its experts at random itself, or a layer has too few experts to draw from.
    """
    entries = plan.spec["interventions"]
    place = YamlPlace(plan.name, Path()) / "interventions"
    for index, entry in enumerate(entries):
        if RandomControl.name in entry["experts"]:
            raise UserError(
                "the steering draws its experts at random: a control of a control shows nothing",
                fix="give the steering file whose experts the claim is about",
                where=f"{plan.name}: interventions.{index}.experts",
            )
    interventions = tuple(
        _with_random_experts(intervention, seed, plan.shape.experts, place / intervention.index)
        for intervention in plan.interventions
    )
    spec = {
        **plan.spec,
        "name": f"{plan.name} (random control {seed})",
        "interventions": [
            {**entry, "experts": {RandomControl.name: {"like": entry["experts"], "seed": seed}}} for entry in entries
        ],
    }
    return replace(
        plan,
        name=spec["name"],
        description=f"Random experts in the place of those of {plan.name}.",
        interventions=interventions,
        spec=spec,
        hash=plan_hash(plan.seed, interventions),
        control_of=plan.matching,
    )


def _with_random_experts(
    intervention: PlannedIntervention, seed: int, experts: int, place: YamlPlace
) -> PlannedIntervention:
    targets = {}
    for layer, matched in intervention.targets.items():
        coefficients = dict(zip(matched.experts, matched.coefficients, strict=True))
        replacements = draw(seed, layer, coefficients, experts, place)
        targets[layer] = LayerTargets.of(
            layer, {expert: coefficients[instead] for expert, instead in replacements.items()}
        )
    return replace(intervention, targets=targets)
