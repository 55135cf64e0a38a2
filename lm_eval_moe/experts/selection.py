"""A spec's rules applied: the experts, why they are chosen, and how many there are where."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval_moe._version import __version__
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.shape import BANDS, RoutingShape
from lm_eval_moe.steering import Choice, ProfileStore, SteeringPlan, SteeringSpec, explain, resolve
from lm_eval_moe.steering.plan import PlannedIntervention
from lm_eval_moe.steering.resolution import effective, scope_of
from lm_eval_moe.steering.selectors import ComparedNumber, Selector
from lm_eval_moe.steering.selectors.random_control import RandomControl
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

__all__ = [
    "SCHEMA_VERSION",
    "ComparedNumber",
    "Counts",
    "Found",
    "FoundByRule",
    "as_random_control",
    "compared",
    "parse_thresholds",
    "select",
]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Counts:
    """How many experts are selected, and in how many layers of those looked at.

    Attributes:
        experts: Selected experts.
        layers: Layers with any.
        looked_at: Layers that the rule is applied to.
    """

    experts: int
    layers: int
    looked_at: int


@dataclass(frozen=True)
class FoundByRule:
    """What one intervention targets.

    Attributes:
        planned: The intervention, resolved.
        rule: Its selection rule.
        layers: The layers that the rule is applied to, ascending.
        choices: The experts with the reasons, by layer and expert.
        thresholds: How many experts other thresholds would select: threshold → band, or ``all`` → counts.
    """

    planned: PlannedIntervention
    rule: Selector
    layers: tuple[int, ...]
    choices: tuple[Choice, ...]
    thresholds: Mapping[float, Mapping[str, Counts]]

    def counts(self, shape: RoutingShape) -> dict[str, Counts]:
        """Return the counts of every band, and of ``all`` layers."""
        return _counts(self.choices, self.layers, shape)


@dataclass(frozen=True)
class Found:
    """What a spec's rules select.

    Attributes:
        spec: The spec.
        plan: The spec, resolved.
        rules: One an intervention, in order.
        store: The profiles that were read.
    """

    spec: SteeringSpec
    plan: SteeringPlan
    rules: tuple[FoundByRule, ...]
    store: ProfileStore

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        plan = self.plan
        return {
            "schema_version": SCHEMA_VERSION,
            "lm_eval_moe_version": __version__,
            "name": plan.name,
            "hash": plan.hash,
            "seed": plan.seed,
            "shape": plan.shape.to_dict(),
            "profiles": [{"file": source.given, **source.said()} for source in plan.profiles],
            "interventions": [_rule_dict(rule, plan.shape) for rule in self.rules],
        }


def select(spec: SteeringSpec, shape: RoutingShape, thresholds: Sequence[float] = ()) -> Found:
    """Apply a spec's rules.

    Args:
        spec: The spec.
        shape: The model's routing shape.
        thresholds: Others than the rules' own, to count what they would select.

    Raises:
        UserError: The spec does not fit the shape, a profile cannot be used, nothing is selected, or ``thresholds`` are
            given and no rule has one.
    """
    store = ProfileStore(shape)
    plan = resolve(spec, shape, store)
    with _said_already():
        explained = explain(spec, shape, store)
    if thresholds and not any(_has_threshold(rule.experts) for rule in spec.interventions):
        names = ", ".join(dict.fromkeys(rule.experts.matched.name for rule in spec.interventions))
        raise UserError(
            f"the rule has no threshold ({names})",
            fix="leave the flag out, or choose a rule that has one",
            where="--thresholds",
        )
    rules = []
    for index, (intervention, choices) in enumerate(zip(spec.interventions, explained, strict=True)):
        layers = intervention.layers.resolve(shape, spec.place / "interventions" / index / "layers")
        counts_by_threshold = {t: _counts(_at(spec, index, t, shape, store), layers, shape) for t in thresholds}
        counts_by_threshold = counts_by_threshold if _has_threshold(intervention.experts) else {}
        rules.append(
            FoundByRule(
                plan.interventions[index],
                intervention.experts,
                layers,
                tuple(effective(intervention, choices)),
                counts_by_threshold,
            )
        )
    return Found(spec, plan, tuple(rules), store)


def as_random_control(spec: SteeringSpec) -> SteeringSpec:
    """Return the spec with, in the place of every rule, its matched random control.

    Raises:
        UserError: An intervention is a random control already.
    """
    interventions = []
    for index, intervention in enumerate(spec.interventions):
        if isinstance(intervention.experts, RandomControl):
            raise (spec.place / "interventions" / index / "experts").error(
                "is a random control already", "leave --control out"
            )
        interventions.append(replace(intervention, experts=RandomControl(intervention.experts)))
    return replace(spec, name=f"{spec.name}-random-control", interventions=tuple(interventions))


def compared(selection: Found, index: int) -> ComparedNumber | None:
    """Return what an intervention's rule compares, over all MoE layers; None where it compares nothing.

    It is of every expert and not only of the chosen ones; for a random control, what the matched rule compares.
    """
    scope = replace(scope_of(index, selection.spec, selection.store.reusing()), layers=selection.plan.shape.layers)
    with _said_already():
        return selection.rules[index].rule.compare(scope)


@contextmanager
def _said_already() -> Iterator[None]:
    """Keep back warnings that applying the spec itself has given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoutingWarning)
        yield


def _has_threshold(rule: Selector) -> bool:
    return getattr(rule.matched, "threshold", None) is not None


def _at(spec: SteeringSpec, index: int, threshold: float, shape: RoutingShape, store: ProfileStore) -> list[Choice]:
    """Return what a rule would select with another threshold: the rule itself decides, not a copy of it."""
    rule: Any = spec.interventions[index].experts.matched
    if not _has_threshold(rule):
        return []
    entry = replace(spec.interventions[index], experts=replace(rule, threshold=threshold))
    try:
        with _said_already():
            return explain(replace(spec, interventions=(entry,)), shape, store)[0]
    except UserError as error:
        if error.where != (spec.place / "interventions" / 0 / "experts" / rule.name / "threshold").where:
            raise
        return []  # no expert meets it


def _counts(choices: Sequence[Choice], layers: Sequence[int], shape: RoutingShape) -> dict[str, Counts]:
    counts = {}
    for name in (*BANDS, "all"):
        inside = set(layers).intersection(shape.band(name))
        chosen_layers = [choice.layer for choice in choices if choice.layer in inside]
        counts[name] = Counts(len(chosen_layers), len(set(chosen_layers)), len(inside))
    return counts


def _rule_dict(rule: FoundByRule, shape: RoutingShape) -> dict[str, Any]:
    planned = rule.planned
    return {
        "index": planned.index,
        "rule": {rule.rule.name: rule.rule.dump()},
        "layers": list(rule.layers),
        **planned.dump(),
        "counts": {name: asdict(counts_of_band) for name, counts_of_band in rule.counts(shape).items()},
        "choices": [{**asdict(choice), "values": dict(choice.values)} for choice in rule.choices],
        "thresholds": [
            {"threshold": threshold, **{name: asdict(counts_of_band) for name, counts_of_band in counts.items()}}
            for threshold, counts in rule.thresholds.items()
        ],
    }


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Read ``0.1,0.2,0.3``, each 0 to 1; ascending, each once.

    Raises:
        UserError: One of them is no such number.
    """
    place = YamlPlace("--thresholds", Path())
    values = []
    for part in text.split(","):
        try:
            value: object = float(part)
        except ValueError:
            value = part
        values.append(YamlValue(place, value).number(0, 1))
    return tuple(sorted(set(values)))
