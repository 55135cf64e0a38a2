"""The ``routing`` object of a results file: the one place where its keys stand, for those that write it and read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lm_eval_moe.identity import Identity
from lm_eval_moe.results._json_dataclass import NUMBER, OPTIONAL, TEXT, WHOLE, JsonDataclass
from lm_eval_moe.statistics import ControlGain

__all__ = [
    "GAIN_NUMBERS",
    "KEY",
    "SCHEMA_VERSION",
    "Control",
    "GroupRouting",
    "ModelShape",
    "ReferenceSource",
    "RoutingObject",
    "Steering",
    "TaskRouting",
    "identity_of",
]

KEY = "routing"
"""The object's key in a results file."""

SCHEMA_VERSION = 1

_SPEC: dict[str, Any] = {"interventions": [{"experts": {}}]}
_IDENTITY: dict[str, Any] = {
    **{"hash": TEXT, "schema_version": WHOLE, "tasks": {None: {}}},
    **{"model": {"adapter": TEXT}, "prompts": {}, "steering": {}, "capture": {}, "computation": {}, "versions": {}},
}
GAIN_NUMBERS = tuple(field.name for field in fields(ControlGain) if field.name not in ("per_control", "covers_draws"))
"""What an entry of `Gains` says in numbers, besides the controls' means."""

_GAINS: dict[None, Any] = {None: {None: {"per_control": [NUMBER], **dict.fromkeys(GAIN_NUMBERS, NUMBER)}}}

Gains = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By task or group and metric key (``acc,none``), the fields of `lm_eval_moe.statistics.ControlGain`."""


@dataclass(frozen=True)
class ModelShape(JsonDataclass):
    """The model's routing shape, as `lm_eval_moe.shape.RoutingShape.to_dict` writes it."""

    layers: tuple[int, ...] = ()
    experts: int | None = None
    top_k: int | None = None
    depth: int | None = None
    bands: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Steering(JsonDataclass):
    """The steering in force."""

    name: str | None = None
    hash: str | None = None  # of what it does
    # The steering file's content; of the items that experts were selected on, their number.
    spec: Mapping[str, Any] = field(default_factory=dict, metadata={"form": _SPEC})
    experts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # targeted, by layer
    matching: str | None = None  # the hash that random controls of this steering name
    control_of: str | None = None  # the steering that this is a random control of
    profiles: tuple[Mapping[str, Any], ...] = ()  # the files that experts were selected from


@dataclass(frozen=True)
class TaskRouting(JsonDataclass):
    """What is known of one task's routing."""

    language: str | None = None  # None: not known
    benchmark: str | None = None  # what its items pair within
    reference: str | None = None  # the language that it was compared with, if it was
    evaluated_documents: int | None = None
    document_hash: str | None = None  # of the documents that were evaluated
    documents: int | None = None  # those with captured routing
    leaked_documents: int | None = None  # those that the steering's experts were selected on
    leak_unknown: bool | None = None  # whether it could not be checked which these are
    tokens: int | None = None
    steered_tokens: int | None = field(default=None, metadata=OPTIONAL)  # (token, layer) pairs at which steering acted
    curve_documents: Mapping[str, int] = field(default_factory=dict)  # with a value in any layer, by curve
    curves: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)  # means by layer
    thinking: Mapping[str, Any] = field(default_factory=dict, metadata=OPTIONAL)  # of generated answers
    field_documents: Mapping[str, int] = field(default_factory=dict, metadata=OPTIONAL)  # with a value, by result field


@dataclass(frozen=True)
class GroupRouting(JsonDataclass):
    """What a group, or an average over languages, is made of."""

    why_not: str | None = field(default=None, metadata=OPTIONAL)  # why averages over languages would mean nothing
    of: str | None = field(default=None, metadata=OPTIONAL)  # the group that an added average is of
    languages: Mapping[str, tuple[str, ...]] = field(default_factory=dict, metadata=OPTIONAL)  # their tasks
    # By metric, an item in several languages as one cluster; lm-eval's column takes tasks as independent.
    clustered_stderr: Mapping[str, float | None] = field(default_factory=dict, metadata=OPTIONAL)
    # By language, of how many documents the divergence is, where these are not all.
    partial: Mapping[str, str] = field(default_factory=dict, metadata=OPTIONAL)
    field_documents: Mapping[str, int] = field(default_factory=dict, metadata=OPTIONAL)  # of all tasks together


@dataclass(frozen=True)
class ReferenceSource(JsonDataclass):
    """Where the reference's routing comes from: this ``run``, or a ``profile``, of which the rest says more."""

    kind: str | None = None
    file: str | None = None
    sha256: str | None = None
    model: str | None = None
    steering: str | None = None
    identity: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the table; of the run itself there is no more to say."""
        return super().to_dict() if self.kind == "profile" else {"kind": self.kind}


@dataclass(frozen=True)
class Control(JsonDataclass):
    """Random controls of a steered run, and its gains over them."""

    kind: str | None = None
    seeds: tuple[int, ...] = ()
    hashes: tuple[str, ...] = ()
    level: float | None = None
    tasks: Gains = field(default_factory=dict, metadata={"form": _GAINS})
    groups: Gains = field(default_factory=dict, metadata={"form": _GAINS})


@dataclass(frozen=True)
class RoutingObject(JsonDataclass):
    """The whole object."""

    schema_version: int | None = None
    lm_eval_moe_version: str | None = None  # of the package that wrote it
    model: str | None = None
    model_shape: ModelShape = ModelShape()
    capture: str | None = None  # the tokens that were counted
    reference: str | None = None  # the language that the others were compared with
    steering: Steering | None = None
    warnings: tuple[str, ...] = ()
    tasks: Mapping[str, TaskRouting] = field(default_factory=dict)
    groups: Mapping[str, GroupRouting] = field(default_factory=dict)  # added averages included
    reference_source: ReferenceSource | None = field(default=None, metadata=OPTIONAL)
    identity: Mapping[str, Any] = field(default_factory=dict, metadata={**OPTIONAL, "form": _IDENTITY})
    control: Control | None = field(default=None, metadata=OPTIONAL)  # gains over random controls

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> RoutingObject:
        """Return what results say of routing; nothing for stock lm-eval's."""
        return cls.from_dict(results.get(KEY))

    @property
    def is_said(self) -> bool:
        """Whether the results say anything of routing."""
        return self != type(self)()

    @property
    def reference_steering(self) -> str | None:
        """The hash of the steering of the reference: the run's own, unless the reference comes from a profile."""
        source = self.reference_source
        if source is not None and (source.kind == "profile" or source.steering):
            return source.steering
        return self.steering.hash if self.steering else None


def identity_of(results: Mapping[str, Any]) -> Identity | None:
    """Return what results depend on; None for stock lm-eval's, and for those of releases that wrote it otherwise."""
    written = RoutingObject.of(results).identity
    identity = Identity.from_dict(written) if written else Identity()
    return identity if identity.parts else None
