"""A steering spec that has met a model: which experts of which layer, and what happens to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_moe.profiles import ProfileSource
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering.actions import parse_action
from lm_eval_moe.steering.language_filter import LanguageFilter
from lm_eval_moe.steering.spec import VERSION, Manner
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

__all__ = ["LayerTargets", "PlannedIntervention", "SteeringPlan", "plan_hash", "received_plan", "sent_plan"]


@dataclass(frozen=True)
class LayerTargets:
    """The targeted experts of one layer.

    Attributes:
        layer: Decoder-layer index.
        experts: Ascending, at least one.
        coefficients: Their steering coefficients s_k; 1.0 where none is given.
    """

    layer: int
    experts: tuple[int, ...]
    coefficients: tuple[float, ...]

    @classmethod
    def of(cls, layer: int, weights: Mapping[int, float]) -> LayerTargets:
        """Return experts with their coefficients as targets."""
        experts = tuple(sorted(weights))
        return cls(layer, experts, tuple(weights[expert] for expert in experts))


@dataclass(frozen=True)
class PlannedIntervention(Manner):
    """One intervention, resolved.

    Attributes:
        index: Its place in the file.
        targets: By decoder-layer index, ascending; layers without targets have no entry.
    """

    index: int
    targets: Mapping[int, LayerTargets]


@dataclass(frozen=True)
class SteeringPlan:
    """All interventions, resolved for a model.

    Attributes:
        name: The spec's name.
        description: Its description.
        source: Its source.
        seed: For ties.
        shape: The model's routing shape.
        interventions: In the order in which they are applied.
        spec: The spec as given, with defaults; JSON-ready.
        hash: SHA-256 of the resolved content, in hexadecimal. Names and descriptions do not enter.
        profiles: The files that experts were selected from. The hash covers what was selected, not them.
        selected_on: The items that listed experts were selected on, as the spec says: benchmark → item keys.
        selected_on_texts: Hashes of their texts, likewise.
        selected_on_unknown: Profiles of theirs that do not say which items they counted, likewise.
        control_of: Of a random control: the `matching` of what it controls.
    """

    name: str
    description: str
    source: str
    seed: int
    shape: RoutingShape
    interventions: tuple[PlannedIntervention, ...]
    spec: dict[str, Any]
    hash: str
    profiles: tuple[ProfileSource, ...] = ()
    selected_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    selected_on_texts: tuple[str, ...] = ()
    selected_on_unknown: tuple[str, ...] = ()
    control_of: str | None = None

    @property
    def matching(self) -> str:
        """What its random controls are known by: the hash of its steering, whatever seed breaks ties."""
        return plan_hash(None, self.interventions)

    @property
    def short_hash(self) -> str:
        """The first 16 characters of the hash, for tables."""
        return self.hash[:16]

    def experts_by_layer(self) -> dict[int, list[int]]:
        """Return the experts that any intervention targets, ascending, by decoder-layer index."""
        experts: dict[int, set[int]] = {}
        for intervention in self.interventions:
            for layer, targets in intervention.targets.items():
                experts.setdefault(layer, set()).update(targets.experts)
        return {layer: sorted(experts[layer]) for layer in sorted(experts)}

    def to_dict(self) -> dict[str, Any]:
        """Return what the results file records: name, hash, spec, and experts per layer."""
        experts = {str(layer): experts for layer, experts in self.experts_by_layer().items()}
        record = {"name": self.name, "hash": self.hash, "spec": self.spec, "experts": experts}
        return {**record, "matching": self.matching, "control_of": self.control_of}


def plan_hash(seed: int | None, interventions: Sequence[PlannedIntervention]) -> str:
    """Return the SHA-256 of what steering does, however the file words it.

    It covers the schema version, the seed, and each intervention's targets, coefficients, action, strength, guard,
    tokens and languages, as JSON with sorted keys and shortest round-trip floats.
    """
    content = _content(seed, interventions)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(seed: int | None, interventions: Sequence[PlannedIntervention]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "seed": seed,
        "interventions": [
            {
                "targets": [
                    [layer, targets.experts, targets.coefficients]
                    for layer, targets in sorted(intervention.targets.items())
                ],
                **intervention.dump(),
            }
            for intervention in interventions
        ],
    }


def sent_plan(plan: SteeringPlan) -> str:
    """Return what a plan does as JSON, for a process that has another part of the model."""
    return json.dumps({"name": plan.name, "hash": plan.hash, **_content(plan.seed, plan.interventions)})


def received_plan(text: str, shape: RoutingShape) -> SteeringPlan:
    """Return the plan that `sent_plan` was given: what it does, without what it was made from.

    Raises:
        ValueError: It does not come out as the very same plan.
    """
    content = json.loads(text)
    interventions = []
    for index, entry in enumerate(content["interventions"]):
        place = YamlPlace(content["name"], Path()) / "interventions" / index
        fields = {name: YamlValue(place / name, entry[name]) for name in ("action", "languages")}
        targets = {layer: LayerTargets(layer, tuple(experts), tuple(s)) for layer, experts, s in entry["targets"]}
        interventions.append(
            PlannedIntervention(
                action=parse_action(fields["action"]),
                guard=entry["guard"],
                tokens=entry["tokens"],
                languages=LanguageFilter.parse(fields["languages"]),
                index=index,
                targets=targets,
            )
        )
    new_hash = plan_hash(content["seed"], interventions)
    if new_hash != content["hash"]:
        raise ValueError(f"the plan {content['name']!r} has the hash {new_hash}, not {content['hash']}")
    return SteeringPlan(content["name"], "", "", content["seed"], shape, tuple(interventions), {}, new_hash)
