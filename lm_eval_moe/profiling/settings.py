"""How a profile was made, beside its identity: its provenance, and what a run that goes on must have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.evaluation.identity import prompting_parts
from lm_eval_moe.identity import Identity
from lm_eval_moe.profiling.documents import Source

if TYPE_CHECKING:
    from lm_eval_moe.backends.base import RoutedModel

__all__ = ["COMPARED", "identity_of", "settings_of"]

COMPARED = ("language", "source", "span", "limit", "aggregate", "arrays")
"""The settings that must be the same; the others are there to be read, and the identity holds what counts of them."""


def settings_of(
    lm: RoutedModel, source: Source, *, limit: int | None, aggregate: bool, arrays: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the settings of one language's profile, JSON-ready.

    Args:
        lm: The model, as loaded.
        source: The documents.
        limit: How many of them at most.
        aggregate: Whether they are pooled.
        arrays: The extra arrays; without any there is no such entry.
    """
    settings = {
        "language": source.language,
        "source": source.describe(),
        "span": lm.capture,
        "limit": limit,
        "aggregate": aggregate,
        "steering": {"name": lm.steering.name, "hash": lm.steering.hash} if lm.steering else None,
        **({"arrays": sorted(arrays)} if arrays else {}),
    }
    same: dict[str, Any] = json.loads(json.dumps(settings))
    return same


def identity_of(
    model: Identity, lm: RoutedModel, source: Source, *, limit: int | None, arrays: Sequence[str]
) -> Identity:
    """Return what one language's profile depends on.

    Args:
        model: The model's identity.
        lm: The model.
        source: The documents.
        limit: How many of them at most.
        arrays: The arrays of the profile.
    """
    parts = {**prompting_parts(lm, {"limit": limit}), "capture.arrays": sorted(arrays)}
    return model.with_parts(parts, source.parts)
