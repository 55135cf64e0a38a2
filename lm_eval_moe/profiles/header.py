"""What a profile says of itself and of its rows, and its form in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.identity import Identity
from lm_eval_moe.shape import RoutingShape

__all__ = [
    "EXTRA_ARRAYS",
    "FORMAT",
    "PROFILE_ARRAYS",
    "ProfileHeader",
    "ProfileItem",
    "damaged",
    "dump_items",
    "load_items",
    "parse_metadata",
    "profile_metadata",
]

PROFILE_ARRAYS = ("counts", "gate_mass", "importance")
"""The arrays of a record that a profile holds, ``[items, L, E]`` each, beside ``tokens`` ``[items]``."""

EXTRA_ARRAYS = {"consecutive_overlap": "overlap"}
"""Arrays that a profile holds where they were asked for, ``[items, L]`` each, and their names in a record."""

SCHEMA_VERSION = 1
FORMAT = "lm-eval-moe profile"
FIX = "write it again with `lm-eval-moe profile` or --routing_profile"


@dataclass(frozen=True)
class ProfileHeader:
    """What all items of a profile have in common.

    Attributes:
        model: What the model was called when it was captured; None, as the span, where counts do not say.
        shape: Its routing shape.
        span: The tokens that were counted: ``prompt``, ``thinking``, ``continuation`` or ``all``.
        steering: The hash of the steering plan in force; None for the model as it is.
        provenance: How the file was made, JSON-ready; None where the writer did not say.
        identity: What the items' routing depends on; None in files of early releases.
    """

    model: str | None
    shape: RoutingShape
    span: str | None
    steering: str | None = None
    provenance: Mapping[str, Any] | None = None
    identity: Identity | None = None


@dataclass(frozen=True)
class ProfileItem:
    """What names an item, in the order of the arrays' rows.

    A row may also pool several items: its ``item`` is empty. ``language`` is empty where it is not known. ``text`` has
    the hashes of the item's texts (`lm_eval_moe.text_hash`) with spaces between; it names nothing, and older files lack
    it.
    """

    benchmark: str
    item: str
    language: str
    task: str
    text: str = field(default="", compare=False)

    def to_dict(self) -> dict[str, str]:
        """Return what a file says of it."""
        return {name: value for name, value in asdict(self).items() if value or name != "text"}


def profile_metadata(header: ProfileHeader, items: Sequence[ProfileItem]) -> dict[str, str]:
    """Return the metadata of a profile's safetensors file."""
    head: dict[str, Any] = {
        "model": header.model,
        "shape": header.shape.to_dict(),
        "span": header.span,
        "steering": header.steering,
    }
    if header.provenance is not None:
        head["provenance"] = dict(header.provenance)
    if header.identity is not None:
        head["identity"] = header.identity.to_dict()
    return {
        "format": FORMAT,
        "schema_version": str(SCHEMA_VERSION),
        "header": json.dumps(head, ensure_ascii=False),
        "items": dump_items(items),
    }


def dump_items(items: Sequence[ProfileItem]) -> str:
    """Write items as a file's metadata hold them."""
    return json.dumps([item.to_dict() for item in items], ensure_ascii=False)


def load_items(text: str) -> tuple[ProfileItem, ...]:
    """Read items from a file's metadata.

    Raises:
        TypeError: They are of another form.
        ValueError: The text is not JSON.
    """
    return tuple(ProfileItem(**item) for item in json.loads(text))


def parse_metadata(path: Path, metadata: Mapping[str, str]) -> tuple[ProfileHeader, tuple[ProfileItem, ...]]:
    """Read and check what a profile says of itself.

    Raises:
        UserError: It is not a profile of this version, or something is missing or of the wrong type.
    """
    if metadata.get("format") != FORMAT or metadata.get("schema_version") != str(SCHEMA_VERSION):
        raise UserError(
            f"is not a profile of schema version {SCHEMA_VERSION} (format {metadata.get('format')!r:.60}, "
            f"version {metadata.get('schema_version')!r:.60})",
            fix=FIX,
            where=str(path),
        )
    try:
        header = json.loads(metadata["header"])
        sizes = {name: header["shape"][name] for name in ("layers", "experts", "top_k", "depth")}
        shape = RoutingShape(**{**sizes, "layers": tuple(sizes["layers"])})
        items = load_items(metadata["items"])
        provenance = header.get("provenance")
        identity = Identity.from_dict(header["identity"]) if header.get("identity") is not None else None
        head = ProfileHeader(header["model"], shape, header["span"], header["steering"], provenance, identity)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise damaged(path, f"{type(error).__name__}: {str(error)[:300]}") from error
    numbers = (*shape.layers, shape.experts, shape.top_k, shape.depth)
    texts = [head.model, head.span, *(part for item in items for part in astuple(item))]
    texts += [head.steering] if head.steering is not None else []
    typed = all(type(number) is int for number in numbers) and all(isinstance(text, str) for text in texts)
    if not typed or not isinstance(provenance, dict | None):
        raise damaged(path, "its header or items are of the wrong type")
    return head, items


def damaged(path: Path, problem: str) -> UserError:
    """Return the error to raise for a profile whose content cannot be right."""
    return UserError(f"is a damaged profile ({problem})", fix=FIX, where=str(path))
