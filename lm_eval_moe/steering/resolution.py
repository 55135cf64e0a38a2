"""From a steering spec and a model's routing shape to a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lm_eval_moe.profiles import ProfileStore
from lm_eval_moe.shape import RoutingShape, format_ranges
from lm_eval_moe.steering.plan import LayerTargets, PlannedIntervention, SteeringPlan, plan_hash
from lm_eval_moe.steering.selectors import Choice, Scope
from lm_eval_moe.steering.selectors.random_control import RandomControl
from lm_eval_moe.steering.spec import InterventionSpec, SteeringSpec
from lm_eval_moe.yaml_values import YamlPlace

__all__ = ["effective", "explain", "resolve", "scope_of"]


def resolve(spec: SteeringSpec, shape: RoutingShape, profiles: ProfileStore | None = None) -> SteeringPlan:
    """Check a spec against a model's shape and select the experts; no weights are needed.

    Args:
        spec: The spec.
        shape: The model's routing shape.
        profiles: What has been read for this model already, to resolve several specs that name the same profiles.

    Raises:
        UserError: The model has another shape than the spec is for, a layer or expert does not exist in it, nothing is
            targeted, a profile cannot be used, or masks leave fewer experts than the model selects.
    """
    store = _store(spec, shape, profiles)
    interventions = _all_planned(spec, store)
    _check_reachable(interventions, shape, spec.place / "interventions")
    return SteeringPlan(
        name=spec.name,
        description=spec.description,
        source=spec.source,
        seed=spec.seed,
        shape=shape,
        interventions=interventions,
        spec=spec.to_dict(),
        hash=plan_hash(spec.seed, interventions),
        profiles=store.used,
        selected_on=spec.selected_on,
        selected_on_texts=spec.selected_on_texts,
        selected_on_unknown=spec.selected_on_unknown,
        control_of=spec.control_of or _controlled(spec, store),
    )


def _all_planned(spec: SteeringSpec, store: ProfileStore) -> tuple[PlannedIntervention, ...]:
    return tuple(_planned(index, each, scope_of(index, spec, store)) for index, each in enumerate(spec.interventions))


def _controlled(spec: SteeringSpec, store: ProfileStore) -> str | None:
    """Return what a spec that draws all of its experts at random is the control of, as `SteeringPlan.matching`."""
    matched = [
        replace(each, experts=each.experts.like)
        for each in spec.interventions
        if isinstance(each.experts, RandomControl)
    ]
    if len(matched) < len(spec.interventions):
        return None
    return plan_hash(None, _all_planned(replace(spec, interventions=tuple(matched)), store))


def explain(spec: SteeringSpec, shape: RoutingShape, profiles: ProfileStore | None = None) -> list[list[Choice]]:
    """Return the experts that each intervention targets, with the reasons: those of `resolve`.

    Their coefficients are the rule's, whether the action heeds them or not.

    Raises:
        UserError: As `resolve`, but for what the actions add up to.
    """
    store = _store(spec, shape, profiles)
    return [each.experts.explain(scope_of(index, spec, store)) for index, each in enumerate(spec.interventions)]


def effective(intervention: InterventionSpec, choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices with the coefficients that the action heeds: what has no effect is not part of a plan."""
    return [choice if intervention.action.weighs else replace(choice, coefficient=1.0) for choice in choices]


def _store(spec: SteeringSpec, shape: RoutingShape, profiles: ProfileStore | None) -> ProfileStore:
    if profiles is not None and profiles.shape != shape:
        raise ValueError(f"the profiles were read for {profiles.shape}, not for {shape}")
    if spec.model is not None:
        spec.model.check(shape, spec.place / "model")
    return ProfileStore(shape) if profiles is None else profiles.reusing()


def scope_of(index: int, spec: SteeringSpec, store: ProfileStore) -> Scope:
    """Return what the rule of an intervention selects from."""
    each, place = spec.interventions[index], spec.place / "interventions" / index
    layers = each.layers.resolve(store.shape, place / "layers")
    return Scope(layers, store.shape, spec.seed, place / "experts" / each.experts.name, store)


def _planned(index: int, each: InterventionSpec, scope: Scope) -> PlannedIntervention:
    chosen: dict[int, dict[int, float]] = {}
    for choice in effective(each, each.experts.explain(scope)):
        chosen.setdefault(choice.layer, {})[choice.expert] = choice.coefficient
    targets = {layer: LayerTargets.of(layer, weights) for layer, weights in sorted(chosen.items())}
    if not targets:
        raise scope.place.error(
            f"no expert is targeted in layers {format_ranges(scope.layers)}",
            "widen `layers`, or change the selection rule",
        )
    return PlannedIntervention(
        index, targets, action=each.action, guard=each.guard, tokens=each.tokens, languages=each.languages
    )


def _check_reachable(interventions: Sequence[PlannedIntervention], shape: RoutingShape, place: YamlPlace) -> None:
    """Refuse masks and guarded bans that, together, leave fewer than K experts for any kind of token.

    Every language that a filter names, and one that none does, is followed through all interventions in order.
    """
    languages: set[str | None] = {None}.union(*(each.languages.mentioned for each in interventions))
    for language in languages:
        for phase in ("prompt", "generated"):
            masked: dict[int, set[int]] = {}
            for each in interventions:
                if each.tokens not in ("all", phase) or not each.languages.admits_tag(language):
                    continue
                for layer, targets in each.targets.items():
                    held = masked.setdefault(layer, set())
                    if each.action.masks or (each.guard and each.action.guards_by == "ban"):
                        held.update(targets.experts)
                    elif each.action.unmasks:
                        held.difference_update(targets.experts)
                    left = shape.experts - len(held)
                    if left < shape.top_k:
                        raise (place / each.index / "experts").error(
                            f"masking leaves {left} of the {shape.experts} experts of layer {layer}, but the model "
                            f"selects {shape.top_k}",
                            f"mask at most {shape.experts - shape.top_k} experts of a layer",
                        )
