"""A routing record as bytes, and back, exactly."""

from __future__ import annotations

import json
import zlib
from dataclasses import fields
from typing import Any

import numpy as np

from lm_eval_moe.routing_record import RoutingRecord

__all__ = ["pack", "unpack"]

_ENDIAN = "<"


def pack(record: RoutingRecord | None) -> bytes:
    """Return a record as compressed bytes; None as none."""
    if record is None:
        return b""
    head: dict[str, Any] = {}
    arrays = b""
    for field in fields(RoutingRecord):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            value = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder(_ENDIAN))
            head[field.name] = [value.dtype.str, value.shape, len(arrays)]
            arrays += value.tobytes()
        else:
            head[field.name] = value
    text = json.dumps(head).encode()
    return zlib.compress(len(text).to_bytes(4, "little") + text + arrays, 1)


def unpack(data: bytes) -> RoutingRecord | None:
    """Return the record that `pack` was given.

    Raises:
        ValueError: The bytes are none of it.
    """
    if not data:
        return None
    try:
        plain = zlib.decompress(data)
        end = 4 + int.from_bytes(plain[:4], "little")
        head = json.loads(plain[4:end])
        values: dict[str, Any] = {}
        for field in fields(RoutingRecord):
            value = head[field.name]
            if isinstance(value, list):
                kind, shape, start = np.dtype(value[0]), tuple(value[1]), end + value[2]
                count = int(np.prod(shape, dtype=np.int64))
                value = np.frombuffer(plain, kind, count, start).reshape(shape).astype(kind.newbyteorder("="))
            values[field.name] = value
        return RoutingRecord(**values)
    except (zlib.error, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no routing record: {error}") from error
