"""The identity itself: named parts, their comparison, and how they are written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval_moe.identity.backends import comparable, mixed_backends
from lm_eval_moe.identity.parts import PARTS
from lm_eval_moe.identity.uses import Use

__all__ = ["SCHEMA_VERSION", "Identity", "PartDifference"]

SCHEMA_VERSION = 1
_SHOWN = 60
_MIXED = "in float32 they agree but for rounding; in 16-bit types some tokens select other experts"


@dataclass(frozen=True)
class PartDifference:
    """A part in which two identities differ.

    Attributes:
        part: Its name; of an entry of a part, or of a task, with that: ``model.config.num_experts_per_tok``.
        old: What the stored thing has.
        new: What is there now.
    """

    part: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if _is_hash(self.old) and _is_hash(self.new):
            return f"{self.part} has changed ({self._meaning()})"
        return self.say("{part} was {old}, is {new}")

    def _meaning(self) -> str:
        """Return what a part holds of which only a hash is kept; of a task's, the task stands in the group's place."""
        of_task = PARTS.get(f"task.{self.part.rpartition('.')[2]}", "hash")
        return next((PARTS[name] for name in PARTS if f"{self.part}.".startswith(f"{name}.")), of_task)

    def say(self, template: str) -> str:
        """Return the difference in other words: of ``{part}``, ``{old}`` and ``{new}``."""
        return template.format(part=self.part, old=_short_text(self.old), new=_short_text(self.new))


@dataclass(frozen=True)
class Identity:
    """What a stored thing depends on.

    A part that is missing is unknown: it agrees with everything, and `unknown` names it.

    Attributes:
        parts: By name; JSON-ready values.
        tasks: The parts of the group ``task`` by task and short name: ``{"mgsm_sw": {"version": "1"}}``.

    Raises:
        ValueError: A part is none of `PARTS`.
    """

    parts: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = {*self.parts, *(f"task.{name}" for parts in self.tasks.values() for name in parts)}
        strangers = sorted(names - PARTS.keys())
        if strangers:
            raise ValueError(f"an identity has no part {strangers[0]!r}")

    def with_parts(self, parts: Mapping[str, Any], tasks: Mapping[str, Mapping[str, Any]] | None = None) -> Identity:
        """Return an identity with further or other parts."""
        return Identity({**self.parts, **parts}, {**self.tasks, **(tasks or {})})

    def only(self, names: Iterable[str]) -> Identity:
        """Return the identity reduced to some parts."""
        part_names = set(names)
        tasks = {
            task: {name: value for name, value in parts.items() if f"task.{name}" in part_names}
            for task, parts in self.tasks.items()
        }
        return Identity(
            {name: value for name, value in self.parts.items() if name in part_names},
            {task: parts for task, parts in tasks.items() if parts},
        )

    @property
    def hash(self) -> str:
        """SHA-256 of all parts, in hexadecimal."""
        text = json.dumps([dict(self.parts), {name: dict(task) for name, task in self.tasks.items()}], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def differences(self, now: Identity, names: Iterable[str]) -> list[PartDifference]:
        """Say in which of some parts another identity differs; what one of the two does not know is passed over.

        Between two backends, what is each one's own way of running a model is passed over, too.

        Args:
            now: The other identity; its values are the new ones.
            names: The parts to compare; those of tasks in the tasks that both have.
        """
        part_names = list(names)
        return [
            difference
            for prefix, old, new in self._pairs(now)
            for name in part_names
            if name.startswith(prefix[1]) and (short := name.removeprefix(prefix[1])) in old and short in new
            for difference in _differences(prefix[0] + short, old[short], new[short])
        ]

    def unknown(self, now: Identity, names: Iterable[str]) -> list[str]:
        """Name the parts, of those wanted, that only one of two identities knows: they cannot be compared."""
        part_names = list(names)
        return [
            label + short
            for (label, prefix), old, new in self._pairs(now)
            for name in part_names
            if name.startswith(prefix) and ((short := name.removeprefix(prefix)) in old or short in new)
            if (short in old) != (short in new) or _incomparable(old[short], new[short])
        ]

    def _pairs(self, now: Identity) -> Iterator[tuple[tuple[str, str], Mapping[str, Any], Mapping[str, Any]]]:
        """Yield what is compared with what: how its parts are shown, what their names begin with, and both sides."""
        if mixed_backends(self.parts, now.parts):
            yield ("", ""), comparable(self.parts, now.parts), comparable(now.parts, self.parts)
        else:
            yield ("", ""), self.parts, now.parts
        for task in self.tasks.keys() & now.tasks.keys():
            yield (f"{task}.", "task."), self.tasks[task], now.tasks[task]

    def mixed(self, now: Identity) -> str:
        """Say that two backends made what two identities are of; empty where one did, or where that is not known."""
        backends = mixed_backends(self.parts, now.parts)
        return "{} and {} are mixed: {}".format(*backends, _MIXED) if backends else ""

    def mismatch(self, now: Identity, use: Use) -> list[PartDifference]:
        """Return the differences that forbid a use."""
        return self.differences(now, use.needed())

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values: ``{"hash": .., "model": {"dtype": ..}, .., "tasks": {task: {..}}}``."""
        nested: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "hash": self.hash}
        for name, value in self.parts.items():
            group, _, short = name.partition(".")
            nested.setdefault(group, {})[short] = value
        nested["tasks"] = {task: dict(parts) for task, parts in self.tasks.items()}
        return nested

    @classmethod
    def from_dict(cls, written: object) -> Identity:
        """Read what `to_dict` wrote; parts of another version of this package are left out, a null group is absent.

        Raises:
            ValueError: It is of another form.
        """
        if not isinstance(written, Mapping):
            raise ValueError(f"an identity is a JSON object, not {type(written).__name__}")
        if written.get("schema_version") != SCHEMA_VERSION:
            return cls()
        parts = {}
        for name in PARTS:
            group, _, short = name.partition(".")
            values = None if group == "task" else written.get(group)
            if values is None:
                continue
            if not isinstance(values, Mapping):
                raise ValueError(f"{group!r} of an identity is a JSON object, not {type(values).__name__}")
            if short in values:
                parts[name] = values[short]
        by_task = {} if written.get("tasks") is None else written["tasks"]
        if not isinstance(by_task, Mapping) or not all(
            isinstance(values, Mapping | None) for values in by_task.values()
        ):
            raise ValueError("'tasks' of an identity is a JSON object of JSON objects")
        tasks = {
            str(task): {name: value for name, value in values.items() if f"task.{name}" in PARTS}
            for task, values in by_task.items()
            if values is not None
        }
        return cls(parts, tasks)


def _differences(name: str, old: Any, new: Any) -> Iterator[PartDifference]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if _incomparable(old, new):
            return
        by_kind = _is_hash_by_kind(old) and _is_hash_by_kind(new)
        for key in old.keys() & new.keys() if by_kind else sorted({*old, *new}, key=str):
            yield from _differences(f"{name}.{key}", old.get(key), new.get(key))
    elif json.dumps(old, sort_keys=True) != json.dumps(new, sort_keys=True):
        yield PartDifference(name, old, new)


def _is_hash_by_kind(value: object) -> bool:
    """Whether a value is the weights' hash, of files, of parameters or of workers' shares: kinds cannot be compared."""
    return isinstance(value, Mapping) and value.keys() <= {"files", "parameters", "shares"} and bool(value)


def _incomparable(old: object, new: object) -> bool:
    return _is_hash_by_kind(old) and _is_hash_by_kind(new) and not (set(old) & set(new))  # type: ignore[call-overload]


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) in (32, 64) and not set(value) - set("0123456789abcdef")


def _short_text(value: object) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
