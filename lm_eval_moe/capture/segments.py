"""The forest of segments: whose tokens a forward pass computes, and which token lies before which.

One forward pass of any engine is N token rows. A *segment* is a run of tokens that is routed once and belongs to every
request whose path goes through it: the prompt of one row, a choice beside others, a few-shot prefix that all documents
share, the part of a request that one pass computes, a KV block, one cell of a sweep. A segment has at most one parent,
whose last token lies just before its first one; a request is a path from a root, and its record the sum over the path.

Nothing here depends on how an engine lays its rows out: it says which segment each row belongs to, in the order of the
sequence within a segment, and passes may stop and go on anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import RoutingBypassedError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["NONE", "Forest", "RowsOnDevice", "Steered", "TokenRows"]

NONE = -1
"""No segment, no row."""

Indices = NDArray[np.int64]


class Steered(NamedTuple):
    """What decides how the tokens of a segment are steered.

    Attributes:
        language: Decides which interventions apply; None where it is not known.
        generated: Whether they belong to the continuation rather than the prompt.
        plan: Which of several plans applies, as a sweep's cells in one pass have.
    """

    language: str | None = None
    generated: bool = False
    plan: int = 0


@dataclass(slots=True)
class _Segment:
    parent: int
    steered: Steered
    tokens: int = 0
    begin: int | None = None  # tokens of the sequence before it, once it has begun
    closed: bool = False  # whether one that follows has begun, in front of which it cannot grow


class Forest:
    """The segments of what an engine runs, by number.

    Requests may share a segment only where everything that steers it is the same.
    """

    def __init__(self) -> None:
        self._segments: list[_Segment] = []
        self._free: list[int] = []
        self._reused: set[int] = set()  # numbers that were released and taken again, and have no token yet

    def __len__(self) -> int:
        """How many numbers there are, those of released segments included."""
        return len(self._segments)

    def add(self, parent: int = NONE, steered: Steered = Steered()) -> int:  # noqa: B008 - it is immutable
        """Return the number of a new segment."""
        segment = _Segment(parent, steered)
        if not self._free:
            self._segments.append(segment)
            return len(self) - 1
        number = self._free.pop()
        self._segments[number] = segment
        self._reused.add(number)
        return number

    def release(self, segments: Iterable[int]) -> None:
        """Give up segments that are in no path any more: an engine that runs for long uses their numbers again."""
        self._free += segments

    def path(self, segment: int) -> list[int]:
        """Return a segment with all those before it, the root first."""
        path = []
        while segment != NONE:
            path.append(segment)
            segment = self._segments[segment].parent
        return path[::-1]

    def tokens(self, segment: int) -> int:
        """Return how many tokens of a segment have been computed."""
        return self._segments[segment].tokens

    def steered(self, segment: int) -> Steered:
        """Return what decides how a segment's tokens are steered."""
        return self._segments[segment].steered

    def begin_pass(self, segment: Indices) -> TokenRows:
        """Take the rows of the next forward pass, which counts their tokens.

        Args:
            segment: ``[N]``, or ``[B, T]`` for a batch of B sequences: the segment of each row's token, `NONE` for
                padding and whatever else does not count. The rows of one segment are in the order of the sequence.

        Raises:
            ValueError: A segment grows after one that follows it has begun.
        """
        flat = segment.reshape(-1)
        kept = np.flatnonzero(flat != NONE)
        own = flat[kept]
        order = np.argsort(own, kind="stable")
        ordered = own[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if own.size else np.zeros(0, np.int64)
        ends = np.r_[starts[1:], own.size][: starts.size]
        runs = [int(number) for number in ordered[starts]]
        lengths = ends - starts
        run_of = {number: run for run, number in enumerate(runs)}
        segments = [self._segments[number] for number in runs]
        before = [self._before(number, run_of) for number in runs]
        reused = [number for number in runs if number in self._reused]
        self._reused.difference_update(reused)
        begun = [not segment.tokens for segment in segments]
        for segment_of_run, begins, length in zip(segments, begun, lengths.tolist(), strict=True):
            segment_of_run.tokens += length
            if begins:
                self._close(segment_of_run.parent)

        previous = np.full(own.size, NONE)
        previous[order[1:]] = order[:-1]
        carried = np.full(own.size, NONE)
        first, last = order[starts], order[ends - 1]
        joins = np.zeros(own.size, dtype=bool)
        for run, (parent_run, carry) in enumerate(before):
            previous[first[run]] = last[parent_run] if parent_run != NONE else NONE
            carried[first[run]] = carry
            joins[first[run]] = begun[run] and (parent_run, carry) != (NONE, NONE)
        offset = [self._begin(number) + self._segments[number].tokens for number in runs] - lengths - starts
        position = np.empty(own.size, dtype=np.int64)
        position[order] = np.arange(own.size) + np.repeat(offset.astype(np.int64), lengths)
        return TokenRows(
            count=flat.size,
            batch=segment.shape if segment.ndim == 2 else None,
            kept=kept,
            segment=own,
            previous=previous,
            carried=carried,
            joins=joins,
            position=position,
            order=order,
            run=np.searchsorted(runs, own) if runs else own,
            runs=np.array(runs, dtype=np.int64),
            run_starts=starts,
            run_last=last,
            run_after=np.array([parent_run for parent_run, _ in before], dtype=np.int64),
            run_carried=np.array([carry for _, carry in before], dtype=np.int64),
            steered=tuple(segment.steered for segment in segments),
            reused=np.array(reused, dtype=np.int64),
            capacity=len(self),
        )

    def _before(self, number: int, run_of: dict[int, int]) -> tuple[int, int]:
        """Return what is before a segment's next token: a run of this pass, or a segment of an earlier one."""
        segment = self._segments[number]
        if segment.closed:
            raise ValueError(f"segment {number} grows, though a segment that follows it has begun")
        if segment.tokens:
            return NONE, number
        parent = segment.parent
        while parent != NONE and parent not in run_of and not self._segments[parent].tokens:
            parent = self._segments[parent].parent  # an empty prompt, say
        return (run_of[parent], NONE) if parent in run_of else (NONE, parent)

    def _close(self, number: int) -> None:
        """Let a segment, and those before it, grow no more."""
        while number != NONE and not self._segments[number].closed:
            self._segments[number].closed = True
            number = self._segments[number].parent

    def is_joined(self, segment: int) -> bool:
        """Say whether a segment has tokens, and follows others token to token."""
        return self._segments[segment].tokens > 0 and self._begin(segment) > 0

    def _begin(self, number: int) -> int:
        """Return how many tokens of its sequence lie before a segment that has begun."""
        segment = self._segments[number]
        if segment.begin is None:
            before = segment.parent
            segment.begin = 0 if before == NONE else self._begin(before) + self._segments[before].tokens
        return segment.begin


@dataclass(frozen=True)
class TokenRows:
    """The N token rows of one forward pass, M of which count; R runs, one for each segment that has rows in it.

    Attributes:
        count: N.
        batch: ``(B, T)`` if the rows are those of a batch, row after row.
        kept: ``[M]`` the rows that count, ascending. All that follows is about these alone.
        segment: ``[M]`` the segment of each.
        previous: ``[M]`` where, among the M, the token before it is; `NONE` if it is not in this pass.
        carried: ``[M]`` the segment whose last token, of an earlier pass, is the one before it; `NONE` for none.
        joins: ``[M]`` whether it is the first token of a segment that others come before.
        position: ``[M]`` how many tokens of its sequence come before it.
        order: ``[M]`` the rows sorted by run, in the order of the sequence.
        run: ``[M]`` the run of each.
        runs: ``[R]`` the segment of each run, ascending.
        run_starts: ``[R]`` where each run begins in ``order``.
        run_last: ``[R]`` each run's last row.
        run_after: ``[R]`` the run that comes before it; `NONE` if it is not in this pass.
        run_carried: ``[R]`` the segment of an earlier pass that comes before it (itself, where it goes on); or `NONE`.
        steered: ``[R]`` what decides how each run is steered.
        reused: Segments that begin in this pass under a number that was released.
        capacity: Above every number of a segment.
    """

    count: int
    batch: tuple[int, ...] | None
    kept: Indices
    segment: Indices
    previous: Indices
    carried: Indices
    joins: NDArray[np.bool_]
    position: Indices
    order: Indices
    run: Indices
    runs: Indices
    run_starts: Indices
    run_last: Indices
    run_after: Indices
    run_carried: Indices
    steered: Sequence[Steered]
    reused: Indices
    capacity: int
    _fitted: dict[int, TokenRows] = field(default_factory=dict, repr=False, compare=False)
    _devices: dict[torch.device, RowsOnDevice] = field(default_factory=dict, repr=False, compare=False)

    def fitted(self, count: int) -> TokenRows:
        """Return the same rows as a router sees them that is called with another number of tokens.

        Prompt-tuning adapters put virtual tokens before each sequence of a batch, which do not count.

        Raises:
            RoutingBypassedError: The tokens cannot be told apart.
        """
        if count == self.count:
            return self
        if count not in self._fitted:
            rows, width = self.batch or (0, self.count)
            wide, rest = divmod(count, rows) if rows else (0, 1)
            if rest or wide < width:
                shape = f"a batch of {rows} rows of {width}" if rows else f"a pass of {width}"
                raise RoutingBypassedError(
                    f"a router was called with {count} tokens for {shape}: its tokens cannot be told apart",
                    fix="capture and steering need a router that sees every token of the pass once, in order",
                )
            row, column = np.divmod(self.kept, width)
            kept = row * wide + (wide - width) + column
            self._fitted[count] = replace(
                self, count=count, batch=(rows, wide), kept=kept, _fitted=self._fitted, _devices={}
            )
        return self._fitted[count]

    def spread(self, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return values ``[M]`` at all rows, ``[N]``: false where a row does not count."""
        wide = np.zeros(self.count, dtype=bool)
        wide[self.kept] = values
        return wide

    def on(self, device: torch.device) -> RowsOnDevice:
        """Return what reductions need of the rows as tensors on a device."""
        if device not in self._devices:
            self._devices[device] = RowsOnDevice.of(self, device)
        return self._devices[device]


class RowsOnDevice(NamedTuple):
    """What reductions need of a pass, as int64 tensors; P rows have a token before them.

    Attributes:
        kept: ``[M]`` the rows that count; None: all of them.
        segment: ``[M]`` the segment of each.
        linked: ``[P]`` the rows with a token before them, among the M; None: all of them.
        pair: ``[P]`` where their pairs are summed: twice the segment, plus 1 for the pair over a seam.
        carries: ``[C]`` segments whose last token, of an earlier pass, lies before a row.
        source: ``[P]`` where the token before is: behind the C carries, the M rows.
        runs: ``[R]`` the segment of each run.
        run_last: ``[R]`` each run's last row.
    """

    kept: Tensor | None
    segment: Tensor
    linked: Tensor | None
    pair: Tensor
    carries: Tensor
    source: Tensor
    runs: Tensor
    run_last: Tensor

    @classmethod
    def of(cls, rows: TokenRows, device: torch.device) -> RowsOnDevice:
        """Return the tensors of some rows."""
        import torch

        linked = np.flatnonzero((rows.previous != NONE) | (rows.carried != NONE))
        carries, place = np.unique(rows.carried[linked], return_inverse=True)
        some = carries.size and carries[0] == NONE
        carries, place = (carries[1:], place - 1) if some else (carries, place)
        source = np.where(rows.carried[linked] != NONE, place, carries.size + rows.previous[linked])
        arrays = (
            rows.kept,
            rows.segment,
            linked,
            2 * rows.segment[linked] + rows.joins[linked],
            carries,
            source,
            rows.runs,
            rows.run_last,
        )
        # One copy to the device instead of eight.
        joined = torch.from_numpy(np.concatenate(arrays)).to(device)
        kept, segment, linked_rows, *others = torch.split(joined, [array.size for array in arrays])
        return cls(
            kept if rows.kept.size < rows.count else None,
            segment,
            linked_rows if linked.size < rows.kept.size else None,
            *others,
        )
