"""Records as the rows of a profile, one an item or one for all of them, and rows as records."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.profiles import EXTRA_ARRAYS, PROFILE_ARRAYS, Profile, ProfileItem
from lm_eval_moe.routing_record import RoutingRecord
from lm_eval_moe.shape import RoutingShape

__all__ = ["ItemRows", "PooledRow", "records_of", "row_of"]

Arrays = dict[str, NDArray[Any]]


def row_of(record: RoutingRecord, extra: Collection[str] = ()) -> Arrays:
    """Return a record as a row of a profile: its arrays ``[L, E]``, extra ones ``[L]``, and ``tokens`` ``[]``.

    Args:
        record: It has the arrays of a profile.
        extra: Which of the extra arrays to hold.
    """
    fields = {**{name: name for name in PROFILE_ARRAYS}, **{name: EXTRA_ARRAYS[name] for name in extra}}
    row = {name: getattr(record, field) for name, field in fields.items()}
    return {**row, "tokens": np.array(record.tokens, dtype=np.int64)}


class ItemRows:
    """One row an item, in memory."""

    def __init__(self) -> None:
        self._items: list[ProfileItem] = []
        self._columns: dict[str, list[NDArray[Any]]] = {name: [] for name in (*PROFILE_ARRAYS, "tokens")}

    def add(self, item: ProfileItem, record: RoutingRecord) -> None:
        """Take an item."""
        self._items.append(item)
        for name, values in row_of(record).items():
            self._columns[name].append(values[None])

    def profile(self) -> tuple[list[ProfileItem], Arrays]:
        """Return the rows."""
        # Joined in place of the parts, so that at most one array is held twice.
        for parts in self._columns.values():
            parts[:] = [np.concatenate(parts)]
        return list(self._items), {name: parts[0] for name, parts in self._columns.items()}


class PooledRow:
    """One row for all items, as if they were one long sequence: memory does not grow with them.

    Args:
        shape: The model's.
        name: What the row says it is; its item is empty.
        extra: Which of the extra arrays to hold.
    """

    def __init__(self, shape: RoutingShape, name: ProfileItem, extra: Collection[str] = ()) -> None:
        size = (1, len(shape.layers), shape.experts)
        self._name = name
        self._sums: Arrays = {
            "counts": np.zeros(size, dtype=np.int64),
            "gate_mass": np.zeros(size),
            "importance": np.zeros(size),  # each item's mean, times its tokens
            "tokens": np.zeros(1, dtype=np.int64),
        }
        if "consecutive_overlap" in extra:
            self._sums["consecutive_overlap"] = np.zeros((1, len(shape.layers)))  # each item's mean, times its pairs
            self._sums["pairs"] = np.zeros(1, dtype=np.int64)

    def add(self, item: ProfileItem, record: RoutingRecord) -> None:
        """Take a document."""
        if record.counts is None or record.gate_mass is None or record.importance is None:
            raise ValueError("a record without the arrays of a profile cannot be pooled")
        self._sums["counts"] += record.counts
        self._sums["gate_mass"] += record.gate_mass
        self._sums["importance"] += record.importance.astype(np.float64) * record.tokens
        self._sums["tokens"] += record.tokens
        if "pairs" in self._sums and record.overlap is not None and record.consecutive:
            self._sums["consecutive_overlap"] += record.overlap.astype(np.float64) * record.consecutive
            self._sums["pairs"] += record.consecutive

    def state(self) -> Arrays:
        """Return the sums so far."""
        return dict(self._sums)

    def restore(self, sums: Mapping[str, NDArray[Any]]) -> None:
        """Go on from earlier sums."""
        self._sums = {name: sums[name].copy() for name in self._sums}

    def profile(self) -> tuple[list[ProfileItem], Arrays]:
        """Return the one row, its importance a mean over tokens that sums to 1 in every layer."""
        importance = self._sums["importance"]
        total = importance.sum(-1, keepdims=True)
        mean = importance / np.where(total > 0, total, 1)
        gate_mass = self._sums["gate_mass"].astype(np.float32)
        arrays = {**self._sums, "gate_mass": gate_mass, "importance": mean.astype(np.float32)}
        if "pairs" in arrays:
            pairs = float(arrays.pop("pairs")[0]) or np.nan  # single tokens have none
            arrays["consecutive_overlap"] = (arrays["consecutive_overlap"] / pairs).astype(np.float32)
        return [self._name], arrays


def records_of(profile: Profile) -> list[RoutingRecord]:
    """Return the record of every row; what steering did is not in a profile.

    Raises:
        UserError: An array is missing or damaged.
    """
    rows = range(len(profile.items))
    none = np.zeros(len(profile.shape.layers), dtype=np.int64)
    overlaps: Sequence[NDArray[np.float32] | None] = [None] * len(rows)
    if "consecutive_overlap" in profile.arrays:
        overlaps = list(profile.array("consecutive_overlap").astype(np.float32))
    columns = (profile.tokens, *(profile.rows(name, rows) for name in PROFILE_ARRAYS), overlaps)
    return [
        RoutingRecord(
            tokens=int(tokens),
            counts=counts,
            gate_mass=gate_mass,
            importance=importance,
            importance_dense=None,
            overlap=overlap,
            targeted=none,
            hit=none,
            changed=none,
        )
        for tokens, counts, gate_mass, importance, overlap in zip(*columns, strict=True)
    ]
