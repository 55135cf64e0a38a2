"""The ``routing`` object of a results file: the one place where its keys stand, for those that write it and read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lm_eval_moe.identity import Identity
from lm_eval_moe.results._written import NUMBER, OPTIONAL, TEXT, WHOLE, Written

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "KEY",
    "SCHEMA_VERSION",
    "Control",
    "GroupRouting",
    "ModelShape",
    "ReferenceSource",
    "Routing",
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
    **{"model": {}, "prompts": {}, "steering": {}, "capture": {}, "computation": {}, "versions": {}},
}
_GAINS: dict[None, Any] = {None: {None: {"gain": NUMBER, "stderr": NUMBER, "low": NUMBER, "high": NUMBER}}}

Gains = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By task or group and metric key (``acc,none``), the fields of `lm_eval_moe.statistics.ControlGain`."""


@dataclass(frozen=True)
class ModelShape(Written):
    """The model's routing shape, as `lm_eval_moe.shape.RoutingShape.to_dict` writes it."""

    layers: tuple[int, ...] = ()
    experts: int | None = None
    top_k: int | None = None
    depth: int | None = None
    bands: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Steering(Written):
    """The steering in force.

    Attributes:
        name: Its name.
        hash: Of what it does.
        spec: The steering file's content; of the items that experts were selected on, their number.
        experts: The targeted experts by layer.
        matching: The hash that random controls of this steering name.
        control_of: The steering that this is a random control of.
        profiles: The files that experts were selected from.
    """

    name: str | None = None
    hash: str | None = None
    spec: Mapping[str, Any] = field(default_factory=dict, metadata={"form": _SPEC})
    experts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    matching: str | None = None
    control_of: str | None = None
    profiles: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class TaskRouting(Written):
    """What is known of one task's routing.

    Attributes:
        language: The task's; None where it is not known.
        benchmark: What its items pair within.
        reference: The language that it was compared with; None where it was not.
        evaluated_documents: How many documents were evaluated.
        document_hash: Of which they were.
        documents: How many of them have captured routing.
        leaked_documents: How many the steering's experts were selected on.
        leak_unknown: Whether it could not be checked on which items the steering's experts were selected.
        tokens: Tokens counted.
        steered_tokens: (Token, layer) pairs at which steering acted; None without steering.
        curve_documents: Documents with a value in any layer, by curve.
        curves: Means over the documents by curve and layer.
        thinking: How many generations there are, and whether their thinking ended.
    """

    language: str | None = None
    benchmark: str | None = None
    reference: str | None = None
    evaluated_documents: int | None = None
    document_hash: str | None = None
    documents: int | None = None
    leaked_documents: int | None = None
    leak_unknown: bool | None = None
    tokens: int | None = None
    steered_tokens: int | None = field(default=None, metadata=OPTIONAL)
    curve_documents: Mapping[str, int] = field(default_factory=dict)
    curves: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    thinking: Mapping[str, Any] = field(default_factory=dict, metadata=OPTIONAL)


@dataclass(frozen=True)
class GroupRouting(Written):
    """What a group, or an average over languages, is made of.

    Attributes:
        why_not: Why averages over the group's languages would mean nothing.
        of: The group that an added average is of.
        languages: Its tasks by language.
        clustered_stderr: By metric, the standard error clustered by item.
        partial: By language, of how many documents the divergence is, where these are not all.
    """

    why_not: str | None = field(default=None, metadata=OPTIONAL)
    of: str | None = field(default=None, metadata=OPTIONAL)
    languages: Mapping[str, tuple[str, ...]] = field(default_factory=dict, metadata=OPTIONAL)
    clustered_stderr: Mapping[str, float | None] = field(default_factory=dict, metadata=OPTIONAL)
    partial: Mapping[str, str] = field(default_factory=dict, metadata=OPTIONAL)


@dataclass(frozen=True)
class ReferenceSource(Written):
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
class Control(Written):
    """Random controls of a steered run, and its gains over them."""

    kind: str | None = None
    seeds: tuple[int, ...] = ()
    hashes: tuple[str, ...] = ()
    level: float | None = None
    tasks: Gains = field(default_factory=dict, metadata={"form": _GAINS})
    groups: Gains = field(default_factory=dict, metadata={"form": _GAINS})


@dataclass(frozen=True)
class Routing(Written):
    """The whole object.

    Attributes:
        schema_version: Of the object.
        lm_eval_moe_version: Of the package that wrote it.
        model: What the model was called.
        model_shape: Its routing shape.
        capture: The tokens that were counted.
        reference: The language that the others were compared with.
        steering: None without steering.
        warnings: What was warned of.
        tasks: By task.
        groups: By group and added average.
        reference_source: Where the reference's routing comes from; None where early releases did not say.
        identity: What the results depend on, as `lm_eval_moe.identity` writes it.
        control: Gains over random controls; None without any.
    """

    schema_version: int | None = None
    lm_eval_moe_version: str | None = None
    model: str | None = None
    model_shape: ModelShape = ModelShape()
    capture: str | None = None
    reference: str | None = None
    steering: Steering | None = None
    warnings: tuple[str, ...] = ()
    tasks: Mapping[str, TaskRouting] = field(default_factory=dict)
    groups: Mapping[str, GroupRouting] = field(default_factory=dict)
    reference_source: ReferenceSource | None = field(default=None, metadata=OPTIONAL)
    identity: Mapping[str, Any] = field(default_factory=dict, metadata={**OPTIONAL, "form": _IDENTITY})
    control: Control | None = field(default=None, metadata=OPTIONAL)

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> Self:
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
    written = Routing.of(results).identity
    identity = Identity.from_dict(written) if written else Identity()
    return identity if identity.parts else None
