"""The one profile type: how a model routes some texts, as one file says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import UserError
from lm_eval_moe.identity.file_hashes import sha256_of
from lm_eval_moe.profiles.header import EXTRA_ARRAYS, FIX, ProfileHeader, ProfileItem, damaged
from lm_eval_moe.shape import RoutingShape

__all__ = ["Activity", "Profile", "check_alike", "common_shape"]

_READABLE = frozenset(("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U32", "U16", "U8"))  # of safetensors' types

_TOLERANCE = 1e-3  # of the sum of an importance over the experts, which is accumulated in float32


@dataclass(frozen=True)
class Activity:
    """How often every expert is selected.

    Attributes:
        mean: ``[L, E]`` mean over items of the activation frequency a_k / T; of pooled counts there is one item.
        pooled: ``[L, E]`` activation counts of all items over their tokens.
    """

    mean: NDArray[np.float64]
    pooled: NDArray[np.float64]


class Profile:
    """A profile, whose arrays are read when they are asked for: an array that nobody asks for is never read.

    Args:
        path: The file.
        header: What its items have in common.
        items: One a row; a row that pools several names none.
        file: The open safetensors file; None: there are no arrays.

    Attributes:
        arrays: The names of the arrays in the file.
        is_dump: Whether it is JSON counts, which say nothing of themselves and hold one pooled row.
    """

    is_dump: ClassVar[bool] = False

    def __init__(self, path: Path, header: ProfileHeader, items: tuple[ProfileItem, ...], file: Any) -> None:
        self.path, self.header, self.items, self._file = path, header, items, file
        self.arrays: frozenset[str] = frozenset(file.keys() if file is not None else ())
        self._activity: dict[tuple[int, ...], Activity] = {}

    @property
    def shape(self) -> RoutingShape:
        """The model's routing shape."""
        return self.header.shape

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file's bytes, in hexadecimal."""
        return sha256_of(self.path)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """The tokens of every row.

        Raises:
            UserError: There is no such array, it has not the shape that the header says, or it holds no counts.
        """
        return self.array("tokens").astype(np.int64)

    def array(self, name: str) -> NDArray[Any]:
        """Return all rows of an array: ``tokens`` ``[items]``, extra arrays ``[items, L]``, others ``[items, L, E]``.

        Raises:
            UserError: There is no such array, it has not the shape that the header says, or its values cannot be.
        """
        return self._checked(name, np.asarray(self._slice(name)[:]), slice(None))

    def rows(self, name: str, rows: Iterable[int]) -> Iterator[NDArray[Any]]:
        """Yield rows of an array; nothing else is read.

        Raises:
            UserError: There is no such array, it has not the shape that the header says, or, at the row, its values
                cannot be.
        """
        array = self._slice(name)
        places = (slice(row, row + 1) for row in rows)
        return (self._checked(name, array[place], place)[0] for place in places)

    def activity(self, rows: Iterable[int] | None = None) -> Activity:
        """Return how often experts are selected in some rows, by default all.

        The order of the rows makes no difference, to the last bit.

        Raises:
            UserError: The file has no counts, they are damaged, or there are no tokens.
        """
        key = self._sorted_rows(rows)
        if key not in self._activity:
            self._activity[key] = self._count(key)
        return self._activity[key]

    def importance(self, rows: Iterable[int] | None = None) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield the number and expert importance ``[L, E]`` of rows that have tokens; one is in memory at a time.

        Raises:
            UserError: The file holds none, or it is damaged.
        """
        rows_with_tokens = [row for row in self._sorted_rows(rows) if self.tokens[row]]
        for row, values in zip(rows_with_tokens, self.rows("importance", rows_with_tokens), strict=True):
            yield row, values.astype(np.float64)

    def pooled_importance(self, rows: Iterable[int] | None = None) -> NDArray[np.float64]:
        """Return the mean importance ``[L, E]`` over all tokens; a layer without any weight is all zeros.

        Raises:
            UserError: The file holds none, or it is damaged.
        """
        total = np.zeros((len(self.shape.layers), self.shape.experts))
        for row, values in self.importance(rows):
            total += values * self.tokens[row]
        return self._normalised(total)

    def languages(self) -> dict[str, int]:
        """Return how many items there are in every language; that of an unlabelled one is empty."""
        return dict(sorted(Counter(item.language for item in self.items).items()))

    def totals_by(self, field: str) -> dict[str, tuple[int, int]]:
        """Return rows and tokens for every value of an item's field."""
        totals: dict[str, tuple[int, int]] = {}
        for item, count in zip(self.items, self.tokens.tolist(), strict=True):
            rows, tokens = totals.get(getattr(item, field), (0, 0))
            totals[getattr(item, field)] = rows + 1, tokens + count
        return totals

    def fit(self, shape: RoutingShape) -> Profile:
        """Return the profile as one of a model of a shape.

        Raises:
            UserError: It is of another shape.
        """
        theirs, ours = self.shape.parts(), shape.parts()
        differences = [part for part in ours if theirs[part] != ours[part]]
        if differences:
            has, needs = (", ".join(f"{part} {side[part]}" for part in differences) for side in (theirs, ours))
            raise UserError(
                f"is a profile of a model of another shape, {self.header.model}: {has}; this model has {needs}",
                fix="give a profile of the model to steer",
                where=str(self.path),
            )
        return self

    def _sorted_rows(self, rows: Iterable[int] | None) -> tuple[int, ...]:
        return tuple(range(len(self.items))) if rows is None else tuple(sorted(rows))

    def _count(self, rows: tuple[int, ...]) -> Activity:
        shape = (len(self.shape.layers), self.shape.experts)
        lengths = self.tokens
        total = np.zeros(shape, dtype=np.int64)
        sum_of_means = np.zeros(shape)
        # Items of equal length are added up as integers and the sums by ascending length: no order enters.
        for length in np.unique(lengths[list(rows)]):
            same = [row for row in rows if lengths[row] == length]
            counted = np.zeros(shape, dtype=np.int64)
            for counts in self.rows("counts", same):
                counted += counts
            if length:
                total += counted
                sum_of_means += counted / length
        items = int(np.count_nonzero(lengths[list(rows)]))
        if not items:
            raise UserError("holds no tokens", fix="give the profile of at least one token", where=str(self.path))
        return Activity(sum_of_means / items, total / lengths[list(rows)].sum())

    @staticmethod
    def _normalised(values: NDArray[np.float64]) -> NDArray[np.float64]:
        total = values.sum(-1, keepdims=True)
        return np.asarray(values / np.where(total > 0, total, 1.0))

    def _checked(self, name: str, values: NDArray[Any], rows: slice) -> NDArray[Any]:
        """Return rows of an array, of which these are the values; refuse what no capture writes."""
        if values.size:
            problem = _why_not_counts(values, self.tokens[rows]) if name == "counts" else _why_not(name, values)
            if problem:
                raise damaged(self.path, problem)
        return values

    def _slice(self, name: str) -> Any:
        if name not in self.arrays:
            raise UserError(f"holds no array {name!r}", fix=FIX, where=str(self.path))
        dimensions = [len(self.items), len(self.shape.layers), self.shape.experts]
        expected = dimensions[: 1 if name == "tokens" else 2 if name in EXTRA_ARRAYS else 3]
        array = self._file.get_slice(name)
        if list(array.get_shape()) != expected:
            raise damaged(self.path, f"{name!r} has the shape {array.get_shape()}, expected {expected}")
        if array.get_dtype() not in _READABLE:  # NumPy has no bfloat16 and no float8
            raise damaged(self.path, f"{name!r} is of the type {array.get_dtype()}, which a profile cannot have")
        return array


def _why_not_counts(values: NDArray[Any], tokens: NDArray[np.int64]) -> str:
    """Say why values ``[rows, L, E]`` cannot be activation counts of so many tokens ``[rows]``; empty if they can."""
    outside = ((values < 0) | (values > tokens[:, None, None])).any(axis=(1, 2))
    if np.issubdtype(values.dtype, np.integer) and not outside.any():
        return ""
    return f"an item has activation counts outside 0 to its {tokens[outside.argmax()]} tokens"


def _why_not(name: str, values: NDArray[Any]) -> str:
    """Say why values cannot be those of an array, other than counts; empty if they can."""
    if name == "tokens":
        is_integer = np.issubdtype(values.dtype, np.integer)
        return "" if is_integer and (values >= 0).all() else "its tokens are not counts"
    if not np.issubdtype(values.dtype, np.floating):
        return f"{name!r} is of the type {values.dtype}, not of floating-point numbers"
    # An item of one token has no overlap.
    numbers = values[~np.isnan(values)] if name == "consecutive_overlap" else values
    if not np.isfinite(numbers).all() or (numbers < 0).any():
        return f"{name!r} holds negative values, or values that are not finite"
    above = name != "gate_mass" and (numbers > 1 + _TOLERANCE).any()
    if name == "importance":
        # A layer in which no expert was selected with a weight is all zeros.
        if above or (~np.isclose(total := values.sum(-1, dtype=np.float64), 1, 0, _TOLERANCE) & (total > 0)).any():
            return "an importance is not a distribution over the experts"
        return ""
    return f"{name!r} holds values above 1" if above else ""


def common_shape(profiles: Sequence[Profile], fix: str) -> RoutingShape:
    """Return the shape of the model that profiles are of; of JSON counts alone the smallest that all of them fit.

    Counts beside a profile that says its shape are checked when they are fitted to it.

    Args:
        profiles: One or more.
        fix: What to do where they are of several shapes.

    Raises:
        UserError: They are of several shapes.
    """
    with_shape = [profile for profile in profiles if not profile.is_dump]
    first = (with_shape or profiles)[0]
    experts = max(profile.shape.experts for profile in with_shape[:1] or profiles)
    shape = RoutingShape(first.shape.layers, experts, first.shape.top_k, first.shape.depth)
    for profile in with_shape or profiles:
        candidate = profile.shape
        if (
            candidate if with_shape else RoutingShape(candidate.layers, experts, candidate.top_k, candidate.depth)
        ) != shape:
            raise UserError(
                f"has a different shape from {first.path}: {candidate}, not {shape}", fix=fix, where=str(profile.path)
            )
    return shape


def check_alike(first: Profile, second: Profile, names: Iterable[str], fix: str) -> None:
    """Refuse profiles that were captured otherwise.

    Args:
        first: A profile.
        second: Another one.
        names: What must agree: ``model``, ``span``, ``steering`` or a size of the shape.
        fix: What to do where it does not.

    Raises:
        UserError: Something does not agree.
    """
    theirs, ours = (
        {"model": head.model, **head.shape.parts(), "span": head.span, "steering": head.steering}
        for head in (first.header, second.header)
    )
    for name in names:
        if theirs[name] != ours[name]:
            problem = f"its {name} is {ours[name] or 'none'}, that of {first.path} is {theirs[name] or 'none'}"
            raise UserError(problem, fix=fix, where=str(second.path))
