"""Reading a samples log by column, without keeping its texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import UserError

__all__ = ["ABSENT", "DO_WITHOUT", "Columns", "columns_of", "read_columns"]


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT: Any = _Absent()
"""Stands for a key that a sample lacks."""

DO_WITHOUT = "do without it: move it elsewhere, or compare --no-samples"
"""What helps where a log cannot be used, whichever command reads it."""

_FIX = f"the log seems cut off or edited: evaluate again, or {DO_WITHOUT}"


@dataclass(frozen=True)
class Columns:
    """Samples by column.

    Attributes:
        places: Number of each sample's line, or of the sample in its list, from 1.
        values: For every key that was asked for, each sample's value, `ABSENT` where it has none.
    """

    places: list[int]
    values: dict[str, list[Any]]


def columns_of(samples: Sequence[Any], keys: Sequence[str]) -> Columns:
    """Return the columns of samples in memory."""
    return Columns(
        list(range(1, len(samples) + 1)), {key: [sample.get(key, ABSENT) for sample in samples] for key in keys}
    )


def read_columns(path: Path, keys: Sequence[str]) -> Columns:
    """Read the columns of a samples log.

    Raises:
        UserError: The file cannot be read, or a line is not a JSON object; with its number.
    """
    decode = _decoder(tuple(keys))
    places: list[int] = []
    rows: list[tuple[Any, ...]] = []
    try:
        with path.open("rb") as log:
            for number, line in enumerate(log, start=1):
                if line.isspace():
                    continue
                try:
                    rows.append(decode(line))
                except (ValueError, RecursionError) as error:
                    raise UserError(
                        f"line {number} is not a JSON object: {error}", fix=_FIX, where=str(path)
                    ) from error
                places.append(number)
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror or error}", fix=f"make it readable, or {DO_WITHOUT}", where=str(path)
        ) from error
    by_column = zip(*rows, strict=True) if rows else ([] for _ in keys)
    return Columns(places, {key: list(values) for key, values in zip(keys, by_column, strict=True)})


@lru_cache(maxsize=64)
def _decoder(keys: tuple[str, ...]) -> Callable[[bytes], tuple[Any, ...]]:
    """Return a function that decodes the values of some keys from one line.

    msgspec checks a line's syntax without building what is not needed, several times as fast as the standard library,
    which reads the lines that msgspec refuses (NaN is not JSON, but is written) and says what is wrong with the others.
    """

    def plain(line: bytes) -> tuple[Any, ...]:
        sample = json.loads(line)
        if not isinstance(sample, dict):
            raise ValueError(f"it is a {type(sample).__name__}")
        return tuple(sample.get(key, ABSENT) for key in keys)

    try:
        import msgspec
    except ImportError:
        return plain

    # Keys of a log need not be identifiers.
    fields = [f"field_{number}" for number in range(len(keys))]
    try:
        line_type = msgspec.defstruct(
            "Line", [(field, Any, ABSENT) for field in fields], rename=dict(zip(fields, keys, strict=True)), gc=False
        )
    except ValueError:  # a key with a quotation mark, a backslash or a control character
        return plain
    decode, values = msgspec.json.Decoder(line_type).decode, msgspec.structs.astuple

    def fast(line: bytes) -> tuple[Any, ...]:
        try:
            return values(decode(line))
        except msgspec.MsgspecError:
            return plain(line)

    return fast
