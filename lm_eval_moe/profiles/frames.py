"""A file as a row of frames, each of which is whole or not there: a JSON head and arrays, with a checksum over both.

What a killed process left half written, and all that follows it, is not read. A frame is the length of its head (4
bytes), the length of its data (8) and the checksum (4), little-endian, then the head and the arrays' bytes.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame", "FrameArrays", "pack_frame", "read_frames"]

_LENGTHS, _SUM = struct.Struct("<IQ"), struct.Struct("<I")
_BLOCK = 1 << 20
_NUMBERS = frozenset("iuf")  # NumPy's letters for the kinds of types


@dataclass(frozen=True)
class _Place:
    """Where an array lies among a frame's data."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @property
    def size(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class FrameArrays:
    """Where the arrays of a frame are.

    Attributes:
        start: Where its data begin in the file.
        places: The arrays by name; frames with arrays of the same types and shapes share them.
    """

    start: int
    places: Mapping[str, _Place]

    def read(self, file: IO[bytes], name: str) -> NDArray[Any]:
        """Return an array.

        Raises:
            ValueError: The file has become shorter.
        """
        place = self.places[name]
        file.seek(self.start + place.start)
        return np.frombuffer(file.read(place.size), place.dtype, prod(place.shape)).reshape(place.shape)


@dataclass(frozen=True)
class Frame:
    """A frame of a file.

    Attributes:
        head: What it says, without its arrays.
        arrays: Its arrays.
        end: Where the next frame begins.
    """

    head: Mapping[str, Any]
    arrays: FrameArrays
    end: int


def pack_frame(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> list[bytes | memoryview]:
    """Return the parts of a frame.

    Args:
        head: JSON-ready, without a key ``arrays``.
        arrays: Of numbers.
    """
    data_arrays = {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
        for name, array in (arrays or {}).items()
    }
    header = {**head, "arrays": {name: [array.dtype.str, array.shape] for name, array in data_arrays.items()}}
    text = json.dumps(header, ensure_ascii=False).encode()
    data = [array.reshape(-1).view(np.uint8).data for array in data_arrays.values()]
    lengths = _LENGTHS.pack(len(text), sum(len(part) for part in data))
    checksum = zlib.crc32(text, zlib.crc32(lengths))
    for part in data:
        checksum = zlib.crc32(part, checksum)
    return [lengths, _SUM.pack(checksum), text, *data]


def read_frames(file: IO[bytes]) -> Iterator[Frame]:
    """Yield the frames of a file from its beginning, up to the first that is not whole."""
    size, start = file.seek(0, 2), 0
    while (frame := _read_frame(file, start, size)) is not None:
        yield frame
        start = frame.end


def _read_frame(file: IO[bytes], start: int, size: int) -> Frame | None:
    begin = start + _LENGTHS.size + _SUM.size
    if begin > size:
        return None
    file.seek(start)
    lengths = file.read(_LENGTHS.size)
    (checksum,) = _SUM.unpack(file.read(_SUM.size))
    text_length, data_length = _LENGTHS.unpack(lengths)
    data, end = begin + text_length, begin + text_length + data_length
    if end > size:
        return None
    text = file.read(text_length)
    computed_sum = zlib.crc32(text, zlib.crc32(lengths))
    for at in range(data, end, _BLOCK):
        computed_sum = zlib.crc32(file.read(min(_BLOCK, end - at)), computed_sum)
    if computed_sum != checksum:
        return None
    try:
        head = json.loads(text)
        arrays = tuple((name, str(kind), tuple(shape)) for name, (kind, shape) in head.pop("arrays").items())
        places, total = _places(arrays)
    except (ValueError, TypeError, KeyError, AttributeError):  # zeros where a disk lost what was written
        return None
    return Frame(head, FrameArrays(data, places), end) if total == data_length else None


@lru_cache(maxsize=64)
def _places(arrays: tuple[tuple[str, str, tuple[int, ...]], ...]) -> tuple[Mapping[str, _Place], int]:
    """Return where arrays of some names, types and shapes lie, and the bytes of all.

    Raises:
        ValueError, TypeError: They are not arrays of numbers.
    """
    places, total = {}, 0
    for name, kind, shape in arrays:
        places[name] = place = _Place(np.dtype(kind), shape, total)
        if place.dtype.kind not in _NUMBERS:
            raise ValueError(f"{name!r} is of the type {kind}")
        total += place.size
    return places, total
