"""The profile file: what it says about itself, and its arrays row by row.

Selecting experts reads profiles before anything heavy loads, so nothing here needs torch, and an array that nobody asks
for is never read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lm_eval_moe.errors import UserError
from lm_eval_moe.files import write_whole
from lm_eval_moe.identity import Identity
from lm_eval_moe.shape import RoutingShape

__all__ = [
    "EXTRA_ARRAYS",
    "PROFILE_ARRAYS",
    "ProfileHeader",
    "ProfileItem",
    "ProfileReader",
    "open_profile",
    "profile_metadata",
    "write_arrays",
    "write_safetensors",
]

PROFILE_ARRAYS = ("counts", "gate_mass", "importance")
"""The arrays of a record that a profile holds, ``[items, L, E]`` each, beside ``tokens`` ``[items]``."""

EXTRA_ARRAYS = {"consecutive_overlap": "overlap"}
"""Arrays that a profile holds where they were asked for, ``[items, L]`` each, and their names in a record."""

SCHEMA_VERSION = 1
FORMAT = "lm-eval-moe profile"
_READABLE = frozenset(("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U32", "U16", "U8"))  # of safetensors' types
_FIX = "write it anew with `lm-eval-moe profile` or --routing_profile"


@dataclass(frozen=True)
class ProfileHeader:
    """What all items of a profile have in common.

    Attributes:
        model: What the model was called when it was captured.
        shape: Its routing shape.
        span: The tokens that were counted.
        steering: The hash of the steering plan in force; None for the model as it is.
        provenance: How the file was made, JSON-ready; None where the writer did not say.
        identity: What the items' routing depends on; None in files of early releases.
    """

    model: str
    shape: RoutingShape
    span: str
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


@dataclass(frozen=True)
class ProfileReader:
    """An open profile.

    Attributes:
        path: The file.
        header: What its items have in common.
        items: One a row.
        arrays: The names of the arrays in the file.
    """

    path: Path
    header: ProfileHeader
    items: tuple[ProfileItem, ...]
    arrays: frozenset[str]
    _file: Any

    def rows(self, name: str, rows: Iterable[int]) -> Iterator[NDArray[Any]]:
        """Yield rows of ``counts``, ``gate_mass`` or ``importance``, ``[L, E]`` each; nothing else is read.

        Raises:
            UserError: There is no such array, or it has not the shape that the header says.
        """
        shape = self.header.shape
        array = self._slice(name, [len(self.items), len(shape.layers), shape.experts])
        return (array[row : row + 1][0] for row in rows)

    def by_layer(self, name: str) -> NDArray[np.float64]:
        """Return an array of :data:`EXTRA_ARRAYS`, ``[items, L]``.

        Raises:
            UserError: There is no such array, or it has not the shape that the header says.
        """
        array = self._slice(name, [len(self.items), len(self.header.shape.layers)])
        return np.asarray(array[:], dtype=np.float64)

    def tokens(self) -> NDArray[np.int64]:
        """Return the tokens of every item.

        Raises:
            UserError: There is no such array, it has not the shape that the header says, or it holds no counts.
        """
        tokens = np.asarray(self._slice("tokens", [len(self.items)])[:])
        if not np.issubdtype(tokens.dtype, np.integer) or (tokens < 0).any():
            raise _damaged(self.path, "its tokens are no counts")
        return tokens.astype(np.int64)

    def _slice(self, name: str, shape: Sequence[int]) -> Any:
        if name not in self.arrays:
            raise UserError(f"holds no array {name!r}", fix=_FIX, where=str(self.path))
        array = self._file.get_slice(name)
        if list(array.get_shape()) != list(shape):
            raise _damaged(self.path, f"{name!r} has the shape {array.get_shape()}, expected {list(shape)}")
        if array.get_dtype() not in _READABLE:  # NumPy has no bfloat16 and no float8
            raise _damaged(self.path, f"{name!r} is of the type {array.get_dtype()}, which no profile has")
        return array


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
        "items": json.dumps([item.to_dict() for item in items], ensure_ascii=False),
    }


def write_arrays(
    path: Path, header: ProfileHeader, items: Sequence[ProfileItem], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a profile; it appears whole or not at all.

    Raises:
        UserError: The file cannot be written.
    """
    write_safetensors(path, arrays, profile_metadata(header, items))


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata; the file appears whole or not at all, and its folder is made.

    Equal content gives equal bytes.

    Raises:
        UserError: The file cannot be written.
    """
    from safetensors.numpy import save

    data = save(dict(arrays), dict(metadata))
    size = int.from_bytes(data[:8], "little")
    write_whole(path, [_in_order(data[8 : 8 + size]), memoryview(data)[8 + size :]], "profile")


def _in_order(header: bytes) -> bytes:
    """Return a safetensors header with its length, the metadata sorted: the library writes them in random order."""
    entries = json.loads(header)
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    ordered = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % 8)  # the arrays begin at a multiple of 8
    return len(ordered).to_bytes(8, "little") + ordered


@contextmanager
def open_profile(path: Path) -> Iterator[ProfileReader]:
    """Open a profile; arrays are read as they are asked for.

    Raises:
        UserError: The file cannot be read, is no profile of this version, or is damaged.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            header, items = _parse_metadata(path, file.metadata() or {})
            yield ProfileReader(path, header, items, frozenset(file.keys()), file)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot be read as a profile: {str(error)[:300]}",
            fix="give a safetensors file that `lm-eval-moe profile` or --routing_profile wrote",
            where=str(path),
        ) from error


def _parse_metadata(path: Path, metadata: dict[str, str]) -> tuple[ProfileHeader, tuple[ProfileItem, ...]]:
    if metadata.get("format") != FORMAT or metadata.get("schema_version") != str(SCHEMA_VERSION):
        raise UserError(
            f"is no profile of schema version {SCHEMA_VERSION} (format {metadata.get('format')!r:.60}, "
            f"version {metadata.get('schema_version')!r:.60})",
            fix=_FIX,
            where=str(path),
        )
    try:
        header = json.loads(metadata["header"])
        sizes = {name: header["shape"][name] for name in ("layers", "experts", "top_k", "depth")}
        shape = RoutingShape(**{**sizes, "layers": tuple(sizes["layers"])})
        items = tuple(ProfileItem(**item) for item in json.loads(metadata["items"]))
        provenance = header.get("provenance")
        identity = Identity.from_dict(header["identity"]) if header.get("identity") is not None else None
        head = ProfileHeader(header["model"], shape, header["span"], header["steering"], provenance, identity)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {str(error)[:300]}") from error
    numbers = (*shape.layers, shape.experts, shape.top_k, shape.depth)
    texts = [head.model, head.span, *(part for item in items for part in astuple(item))]
    texts += [head.steering] if head.steering is not None else []
    typed = all(type(number) is int for number in numbers) and all(isinstance(text, str) for text in texts)
    if not typed or not isinstance(provenance, dict | None):
        raise _damaged(path, "its header or items are of the wrong type")
    return head, items


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(f"is a damaged profile ({problem})", fix=_FIX, where=str(path))
