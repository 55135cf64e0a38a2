"""What can be compared of two things that different backends made, and what has to be said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["BACKEND", "comparable", "mixed_backends"]

BACKEND = "model.backend"

_OF_BACKENDS = frozenset(
    f"model.{name}"
    for name in ("class", "generation_config", "routers", "code", "adapter", "attention", "experts", "device")
)
"""Parts that say how a backend runs a model: between two backends they cannot be compared."""


def mixed_backends(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the backends of two identities' parts if both are known and differ."""
    pair = first.get(BACKEND), second.get(BACKEND)
    return (str(pair[0]), str(pair[1])) if None not in pair and pair[0] != pair[1] else None


def comparable(parts: Mapping[str, Any], other_parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return of the first one's parts what can be compared with another backend's.

    Backends may need different versions of transformers, whose configs know different entries: those that both have
    count.
    """
    result: dict[str, Any] = {}
    for name, value in parts.items():
        if name in _OF_BACKENDS and name in other_parts:
            continue
        theirs = other_parts.get(name)
        if name != "model.weights" and isinstance(value, Mapping) and isinstance(theirs, Mapping):
            value = {key: entry for key, entry in value.items() if key in theirs}
        result[name] = value
    return result
