"""The side file of a profile that is not finished, so that a run that was cut off goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lm_eval_moe.errors import UserError
from lm_eval_moe.identity import Identity
from lm_eval_moe.profiles.files import write_safetensors
from lm_eval_moe.profiles.header import ProfileItem, dump_items, load_items

__all__ = ["Unfinished", "read_unfinished", "unfinished_path", "write_unfinished"]

_FORMAT, _SCHEMA_VERSION = "lm-eval-moe unfinished profile", "2"


@dataclass(frozen=True)
class Unfinished:
    """A profile in the making.

    Attributes:
        settings: How it is made.
        identity: Everything else that determines the result.
        done: Documents taken so far.
        items: Of the rows so far.
        arrays: What they add up to.
    """

    settings: Mapping[str, Any]
    identity: Identity
    done: int
    items: Sequence[ProfileItem]
    arrays: Mapping[str, NDArray[Any]]


def unfinished_path(path: Path) -> Path:
    """Return the side file of a profile to be."""
    return path.with_name(f".{path.stem}.unfinished.safetensors")


def write_unfinished(path: Path, state: Unfinished) -> None:
    """Write the side file; it is replaced whole or not at all."""
    write_safetensors(
        path,
        state.arrays,
        {
            "format": _FORMAT,
            "schema_version": _SCHEMA_VERSION,
            "settings": json.dumps(state.settings, ensure_ascii=False),
            "identity": json.dumps(state.identity.to_dict(), ensure_ascii=False),
            "done": str(state.done),
            "items": dump_items(state.items),
        },
    )


def read_unfinished(path: Path) -> Unfinished:
    """Read a side file.

    Raises:
        UserError: It is none, or damaged.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            if (metadata.get("format"), metadata.get("schema_version")) != (_FORMAT, _SCHEMA_VERSION):
                raise ValueError(f"it is of format {metadata.get('format')!r}")
            items = load_items(metadata["items"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            identity = Identity.from_dict(json.loads(metadata["identity"]))
            return Unfinished(json.loads(metadata["settings"]), identity, int(metadata["done"]), items, arrays)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot be gone on with: {error}", fix="start anew with --restart", where=str(path)) from error
