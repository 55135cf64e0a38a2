"""The profile file: what it says about itself, and its arrays row by row.

Selecting experts reads profiles before anything heavy loads, so nothing here needs torch, and an array that nobody asks
for is never read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lm_eval_moe.errors import UserError
from lm_eval_moe.shape import RoutingShape

__all__ = ["ProfileHeader", "ProfileItem", "ProfileReader", "open_profile", "profile_metadata"]

SCHEMA_VERSION = 1
FORMAT = "lm-eval-moe profile"
_FIX = "write it anew with --routing_profile"


@dataclass(frozen=True)
class ProfileHeader:
    """What all items of a profile have in common."""

    model: str
    shape: RoutingShape
    span: str
    steering: str | None = None  # the plan's hash


@dataclass(frozen=True)
class ProfileItem:
    """What names an item, in the order of the arrays' rows.

    A row may also pool several items: its ``item`` is empty. ``language`` is empty where it is not known.
    """

    benchmark: str
    item: str
    language: str
    task: str


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
        return array


def profile_metadata(header: ProfileHeader, items: Sequence[ProfileItem]) -> dict[str, str]:
    """Return the metadata of a profile's safetensors file."""
    return {
        "format": FORMAT,
        "schema_version": str(SCHEMA_VERSION),
        "header": json.dumps({**asdict(header), "shape": header.shape.to_dict()}, ensure_ascii=False),
        "items": json.dumps([asdict(item) for item in items], ensure_ascii=False),
    }


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
            f"cannot be read as a profile: {error}",
            fix="give a safetensors file that --routing_profile wrote",
            where=str(path),
        ) from error


def _parse_metadata(path: Path, metadata: dict[str, str]) -> tuple[ProfileHeader, tuple[ProfileItem, ...]]:
    if metadata.get("format") != FORMAT or metadata.get("schema_version") != str(SCHEMA_VERSION):
        raise UserError(
            f"is no profile of schema version {SCHEMA_VERSION} (format {metadata.get('format')!r}, "
            f"version {metadata.get('schema_version')!r})",
            fix=_FIX,
            where=str(path),
        )
    try:
        header = json.loads(metadata["header"])
        sizes = {name: header["shape"][name] for name in ("layers", "experts", "top_k", "depth")}
        shape = RoutingShape(**{**sizes, "layers": tuple(sizes["layers"])})
        items = tuple(ProfileItem(**item) for item in json.loads(metadata["items"]))
        head = ProfileHeader(header["model"], shape, header["span"], header["steering"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    numbers = (*shape.layers, shape.experts, shape.top_k, shape.depth)
    texts = [head.model, head.span, *(part for item in items for part in astuple(item))]
    if not all(type(number) is int for number in numbers) or not all(isinstance(text, str) for text in texts):
        raise _damaged(path, "its header or items are of the wrong type")
    return head, items


def _damaged(path: Path, problem: str) -> UserError:
    return UserError(f"is a damaged profile ({problem})", fix=_FIX, where=str(path))
