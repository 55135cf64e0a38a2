"""Safetensors files, written part by part: an array need not be in memory to be in the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.files import write_whole

__all__ = ["ArrayColumn", "write_safetensors"]


@dataclass(frozen=True)
class ArrayColumn:
    """An array of which one part at a time is in memory.

    Attributes:
        dtype: The type of its numbers.
        shape: Of the whole.
        parts: Yields arrays of any shape and type, whose numbers one behind the other are those of the whole.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    parts: Callable[[], Iterable[NDArray[Any]]]

    @classmethod
    def of(cls, array: NDArray[Any]) -> ArrayColumn:
        """Return an array as the one part of itself."""
        return cls(array.dtype, array.shape, lambda: [array])

    @property
    def size(self) -> int:
        """Its bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def load(self) -> NDArray[Any]:
        """Return the whole array."""
        return np.concatenate([np.reshape(part, -1) for part in self.parts()]).astype(self.dtype).reshape(self.shape)

    def bytes(self) -> Iterator[memoryview]:
        """Yield its bytes, little-endian.

        Raises:
            ValueError: The parts have the wrong number of bytes as the whole.
        """
        bytes_to_come, kind = self.size, self.dtype.newbyteorder("<")
        for part in self.parts():
            data = np.ascontiguousarray(part, dtype=kind)
            bytes_to_come -= data.nbytes
            if bytes_to_come < 0:
                break
            yield data.reshape(-1).view(np.uint8).data
        if bytes_to_come:
            raise ValueError(f"the parts of an array of shape {self.shape} have the wrong number of bytes")


def write_safetensors(
    path: Path, arrays: Mapping[str, NDArray[Any] | ArrayColumn], metadata: Mapping[str, str]
) -> None:
    """Write arrays and metadata; the file appears whole or not at all, and its folder is made.

    Equal content gives equal bytes.

    Raises:
        UserError: The file cannot be written.
    """
    columns = {
        name: array if isinstance(array, ArrayColumn) else ArrayColumn.of(array) for name, array in arrays.items()
    }
    entries = _entries(columns)
    header = json.dumps(
        {"__metadata__": dict(sorted(metadata.items())), **entries}, ensure_ascii=False, separators=(",", ":")
    ).encode()
    header += b" " * (-len(header) % 8)  # the arrays begin at a multiple of 8
    content = chain.from_iterable(columns[name].bytes() for name in entries)
    write_whole(path, chain([len(header).to_bytes(8, "little"), header], content), "profile")


def _entries(columns: Mapping[str, ArrayColumn]) -> dict[str, dict[str, Any]]:
    """Return what a safetensors header says of arrays, in the order in which they lie in the file.

    The order and the names of the types are the library's own.
    """
    from safetensors.numpy import save

    empty = save({name: np.zeros(0, column.dtype) for name, column in columns.items()})
    entries: dict[str, dict[str, Any]] = json.loads(empty[8 : 8 + int.from_bytes(empty[:8], "little")])
    start = 0
    for name, entry in entries.items():
        end = start + columns[name].size
        entry.update(shape=list(columns[name].shape), data_offsets=[start, end])
        start = end
    return entries
