"""Routing records and sums as bytes, and back, exactly."""

from __future__ import annotations

import json
import zlib
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from lm_eval_moe.capture.sums import SegmentSums
from lm_eval_moe.routing_record import RoutingRecord

__all__ = ["pack", "pack_sums", "unpack", "unpack_sums"]

_ENDIAN = "<"

T = TypeVar("T", RoutingRecord, SegmentSums)


def pack(record: RoutingRecord | None) -> bytes:
    """Return a record as compressed bytes; None as none."""
    return b"" if record is None else _pack(record)


def unpack(data: bytes) -> RoutingRecord | None:
    """Return the record that `pack` was given.

    Raises:
        ValueError: The bytes are none of it.
    """
    return _unpack(RoutingRecord, data) if data else None


def pack_sums(sums: SegmentSums) -> bytes:
    """Return sums as compressed bytes."""
    return _pack(sums)


def unpack_sums(data: bytes) -> SegmentSums:
    """Return the sums that `pack_sums` was given.

    Raises:
        ValueError: The bytes are none of it.
    """
    return _unpack(SegmentSums, data)


def _pack(record: RoutingRecord | SegmentSums) -> bytes:
    head: dict[str, Any] = {}
    arrays = b""
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder(_ENDIAN))
            head[field.name] = [value.dtype.str, value.shape, len(arrays)]
            arrays += value.tobytes()
        else:
            head[field.name] = value
    text = json.dumps(head).encode()
    return zlib.compress(len(text).to_bytes(4, "little") + text + arrays, 1)


def _unpack(kind_of_record: type[T], data: bytes) -> T:
    try:
        plain = zlib.decompress(data)
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
    except (zlib.error, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no {kind_of_record.__name__}: {error}") from error
