"""Per-item routing on disk: a safetensors file with one row an item, and JSON metadata that says what the rows are."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_moe.capture.records import RoutingRecord
from lm_eval_moe.errors import UserError
from lm_eval_moe.shape import RoutingShape

__all__ = ["PROFILE_ARRAYS", "ProfileHeader", "ProfileItem", "read_profile", "write_profile"]

SCHEMA_VERSION = 1
PROFILE_ARRAYS = ("counts", "gate_mass", "importance")
"""The arrays of a record that a profile holds, ``[items, L, E]`` each, beside ``tokens`` ``[items]``."""


@dataclass(frozen=True)
class ProfileHeader:
    """What all items of a profile have in common."""

    model: str
    shape: RoutingShape
    span: str
    steering: str | None = None  # the plan's hash


@dataclass(frozen=True)
class ProfileItem:
    """What names an item, in the order of the arrays' rows."""

    benchmark: str
    item: str
    language: str
    task: str


def write_profile(
    path: Path, header: ProfileHeader, items: Sequence[ProfileItem], records: Sequence[RoutingRecord]
) -> None:
    """Write a profile; it appears whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    from safetensors.numpy import save

    arrays = {name: np.stack([getattr(record, name) for record in records]) for name in PROFILE_ARRAYS}
    arrays["tokens"] = np.array([record.tokens for record in records], dtype=np.int64)
    metadata = {
        "format": "lm-eval-moe profile",
        "schema_version": str(SCHEMA_VERSION),
        "header": json.dumps({**asdict(header), "shape": header.shape.to_dict()}, ensure_ascii=False),
        "items": json.dumps([asdict(item) for item in items], ensure_ascii=False),
    }
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(save(arrays, metadata))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"cannot write the profile: {error.strerror or error}", fix="choose a writable path", where=str(path)
        ) from error


def read_profile(path: Path) -> tuple[ProfileHeader, list[ProfileItem], list[RoutingRecord]]:
    """Read a profile.

    Raises:
        UserError: The file cannot be read, or is no profile of this version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata: dict[str, str] = file.metadata() or {}
            arrays: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot be read as a profile: {error}",
            fix="give a safetensors file that --routing_profile wrote",
            where=str(path),
        ) from error
    if metadata.get("format") != "lm-eval-moe profile" or metadata.get("schema_version") != str(SCHEMA_VERSION):
        raise UserError(
            f"is no profile of schema version {SCHEMA_VERSION} (format {metadata.get('format')!r}, "
            f"version {metadata.get('schema_version')!r})",
            fix="write it anew with --routing_profile",
            where=str(path),
        )
    try:
        header = json.loads(metadata["header"])
        shape = {name: header["shape"][name] for name in ("layers", "experts", "top_k", "depth")}
        shape["layers"] = tuple(shape["layers"])
        items = [ProfileItem(**item) for item in json.loads(metadata["items"])]
        records = [_record(arrays, row) for row in range(len(items))]
        head = ProfileHeader(header["model"], RoutingShape(**shape), header["span"], header["steering"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"is a damaged profile ({type(error).__name__}: {error})",
            fix="write it anew with --routing_profile",
            where=str(path),
        ) from error
    return head, items, records


def _record(arrays: dict[str, Any], row: int) -> RoutingRecord:
    layers = arrays["importance"].shape[1]
    none = np.zeros(layers, dtype=np.int64)
    return RoutingRecord(
        tokens=int(arrays["tokens"][row]),
        counts=arrays["counts"][row],
        gate_mass=arrays["gate_mass"][row],
        importance=arrays["importance"][row],
        importance_dense=None,
        overlap=None,
        targeted=none,
        hit=none,
        changed=none,
    )
