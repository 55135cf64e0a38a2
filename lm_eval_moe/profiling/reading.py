"""A file of counts as a whole, whether a profile or a JSON dump: what it says of itself, and its pooled routing."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import UserError
from lm_eval_moe.profile_file import ProfileHeader, ProfileItem, ProfileReader, open_profile
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering._count_dump import DumpError, read_count_dump

__all__ = ["Overview", "Pooled", "overview", "pooled"]


@dataclass(frozen=True)
class Overview:
    """What a file is.

    Attributes:
        path: The file.
        header: None for a JSON dump, which says nothing of itself.
        shape: The routing shape; of a dump, the smallest that its counts fit.
        items: One a row; a dump has none.
        tokens: Of each row; of a dump, the tokens of its busiest layer.
    """

    path: Path
    header: ProfileHeader | None
    shape: RoutingShape
    items: tuple[ProfileItem, ...]
    tokens: tuple[int, ...]

    def by(self, field: str) -> dict[str, tuple[int, int]]:
        """Return items and tokens for every value of an item's field."""
        items: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        for item, count in zip(self.items, self.tokens, strict=True):
            items[getattr(item, field)] += 1
            tokens[getattr(item, field)] += count
        return {value: (items[value], tokens[value]) for value in items}


@dataclass(frozen=True)
class Pooled:
    """The routing of all items as if they were one sequence.

    Attributes:
        frequency: ``[L, E]`` activation counts over tokens.
        importance: ``[L, E]`` mean combine weight, each row summing to 1; to 0 where nothing was selected.
    """

    frequency: NDArray[np.float64]
    importance: NDArray[np.float64]


def overview(path: Path) -> Overview:
    """Read what a file is.

    Raises:
        UserError: It cannot be read, or is neither a profile nor a JSON dump.
    """
    if path.suffix == ".json":
        data = _bytes(path)
        shape = _shape_of_dump(path, _json(path, data))
        _, tokens = _dump(path, data, shape)
        return Overview(path, None, shape, (), (int(tokens.max()),))
    with open_profile(path) as profile:
        tokens = profile.tokens()
        return Overview(path, profile.header, profile.header.shape, profile.items, tuple(tokens.tolist()))


def pooled(path: Path, shape: RoutingShape) -> Pooled:
    """Read a file's routing, row by row.

    Args:
        path: The file.
        shape: What it shall be of.

    Raises:
        UserError: It is of another shape, damaged, or has no tokens.
    """
    if path.suffix == ".json":
        data = _bytes(path)
        counts, tokens = _dump(path, data, shape)
        return Pooled(counts / tokens[:, None], _normalised(_gate_sums(path, _json(path, data), shape)))
    with open_profile(path) as profile:
        return _pooled_rows(profile)


def _pooled_rows(profile: ProfileReader) -> Pooled:
    shape, tokens = profile.header.shape, profile.tokens()
    if not tokens.sum():
        raise UserError("holds no tokens", fix="give a profile of at least one token", where=str(profile.path))
    counts = np.zeros((len(shape.layers), shape.experts))
    importance = np.zeros_like(counts)
    rows = range(len(profile.items))
    for row, values in zip(rows, profile.rows("counts", rows), strict=True):
        counts += values
        importance += next(iter(profile.rows("importance", [row]))).astype(np.float64) * tokens[row]
    if not np.isfinite(importance).all() or (importance < 0).any() or (counts < 0).any():
        raise UserError(
            "is a damaged profile: it holds negative or infinite values", fix="write it anew", where=str(profile.path)
        )
    return Pooled(counts / tokens.sum(), _normalised(importance))


def _normalised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    total = values.sum(-1, keepdims=True)
    result: NDArray[np.float64] = values / np.where(total > 0, total, 1.0)
    return result


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror or error}", fix="give the path of a profile", where=str(path)
        ) from error


def _json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"is no JSON text: {error}", fix="give a profile, or JSON counts of routing", where=str(path)
        ) from error


def _dump(path: Path, data: bytes, shape: RoutingShape) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    try:
        return read_count_dump(data, shape)
    except DumpError as error:
        raise UserError(error.problem, fix=error.fix, where=str(path)) from error


def _shape_of_dump(path: Path, dump: Any) -> RoutingShape:
    try:
        layers = sorted(int(layer) for layer in dump)
        experts = 1 + max(int(name) for layer in dump.values() for name in layer if name != "total_tokens")
        selected = [
            sum(entry["activation_tokens"] for name, entry in layer.items() if name != "total_tokens")
            / layer["total_tokens"]
            for layer in dump.values()
        ]
        return RoutingShape(tuple(layers), experts, max(round(float(np.mean(selected))), 1), layers[-1] + 1)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise UserError(
            "holds no counts of routing",
            fix="give JSON of the form {layer: {expert: {activation_tokens, gate_values_sum}, total_tokens}}",
            where=str(path),
        ) from error


def _gate_sums(path: Path, dump: Any, shape: RoutingShape) -> NDArray[np.float64]:
    sums = np.zeros((len(shape.layers), shape.experts))
    for row, layer in enumerate(shape.layers):
        for name, entry in dump[str(layer)].items():
            if name == "total_tokens":
                continue
            value = entry.get("gate_values_sum")
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UserError(
                    f"'gate_values_sum' of layer {layer}, expert {name} is {value!r}",
                    fix="give counts with the sums of the experts' weights",
                    where=str(path),
                )
            sums[row, int(name)] = value
    return sums
