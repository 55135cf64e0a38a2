"""Routing records and sums as bytes, and back, exactly."""

from __future__ import annotations

import json
import zlib
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from lm_eval_moe.recording.sums import SegmentSums
from lm_eval_moe.routing_record import RoutingRecord

__all__ = ["pack", "pack_sums", "unpack", "unpack_sums"]

_ENDIAN = "<"

T = TypeVar("T", RoutingRecord, SegmentSums)


def pack(record: RoutingRecord | None) -> bytes:
    """Return a record as compressed bytes; None as none."""
    return b"" if record is None else zlib.compress(_pack(record), 1)


def unpack(data: bytes) -> RoutingRecord | None:
    """Return the record that `pack` was given.

    Raises:
        ValueError: The bytes are none of it.
    """
    if not data:
        return None
    try:
        return _unpack(RoutingRecord, zlib.decompress(data))
    except zlib.error as error:
        raise ValueError(f"not a RoutingRecord: {error}") from error


def pack_sums(sums: SegmentSums) -> bytes:
    """Return sums as bytes. They stay on the machine: to compress them takes longer than to hand them on."""
    return _pack(sums)


def unpack_sums(data: bytes) -> SegmentSums:
    """Return the sums that `pack_sums` was given.

    Raises:
        ValueError: The bytes are none of it.
    """
    return _unpack(SegmentSums, data)


def _pack(record: RoutingRecord | SegmentSums) -> bytes:
    head: dict[str, Any] = {}
    arrays, size = [], 0
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder(_ENDIAN))
            head[field.name] = [value.dtype.str, value.shape, size]
            arrays.append(value.tobytes())
            size += value.nbytes
        else:
            head[field.name] = value
    text = json.dumps(head).encode()
    return b"".join([len(text).to_bytes(4, "little"), text, *arrays])


def _unpack(kind_of_record: type[T], plain: bytes) -> T:
    try:
        end = 4 + int.from_bytes(plain[:4], "little")
        head = json.loads(plain[4:end])
        values: dict[str, Any] = {}
        for field in fields(kind_of_record):
            value = head[field.name]
            if isinstance(value, list):
                kind, shape, start = np.dtype(value[0]), tuple(value[1]), end + value[2]
                count = int(np.prod(shape, dtype=np.int64))
                value = np.frombuffer(plain, kind, count, start).reshape(shape).astype(kind.newbyteorder("="))
            values[field.name] = value
        return kind_of_record(**values)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"not a {kind_of_record.__name__}: {error}") from error
