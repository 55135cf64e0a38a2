"""The forest of segments: whose tokens a forward pass computes, and which token lies before which.

One forward pass of any engine is N token rows. A *segment* is a run of tokens that is routed once and belongs to every
request whose path goes through it: the prompt of one row, a choice next to others, a few-shot prefix that all documents
share, the part of a request that one pass computes, a KV block, one cell of a sweep. A segment has at most one parent,
whose last token lies just before its first one; a request is a path from a root, and its record the sum over the path.

Nothing here depends on how an engine lays its rows out: it says which segment each row belongs to, in the order of the
sequence within a segment, and passes may stop and continue anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lm_eval_moe.recording.token_rows import NONE, Indices, Steered, TokenRows

__all__ = ["Forest"]


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
        self._step: TokenRows | None = None  # the last pass, if each of its segments went on by one token
        self._given: tuple[tuple[int, ...], bytes] | None = None  # its segments

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

    def fold(self, segments: Sequence[int]) -> int:
        """Make one segment of consecutive ones that have begun, under the number of the first; give up the others.

        The recorder has to fold them first (`Recorder.fold`). `path` knows nothing of folds: whoever folds keeps the
        paths.
        """
        first, *rest = segments
        self._step = None
        self._segments[first].tokens += sum(self._segments[segment].tokens for segment in rest)
        self._segments[first].closed = self._segments[segments[-1]].closed
        self.release(rest)
        return first

    def path(self, segment: int) -> list[int]:
        """Return a segment with all those before it, the root first."""
        path: list[int] = []
        while segment != NONE:
            if segment in path:
                raise ValueError(f"segment {segment} is behind one that was folded: its path is not known")
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
        key = (segment.shape, segment.tobytes())
        self._step = self._next_step() if key == self._given else None
        if self._step is not None:
            return self._step
        self._given = key
        flat = segment.reshape(-1)
        positions = np.flatnonzero(flat != NONE)
        row_segments = flat[positions]
        order = np.argsort(row_segments, kind="stable")
        ordered = row_segments[order]
        begins_run = np.ones(row_segments.size, dtype=bool)
        np.not_equal(ordered[1:], ordered[:-1], out=begins_run[1:])
        starts = np.flatnonzero(begins_run)
        ends = np.empty_like(starts)
        ends[:-1], ends[-1:] = starts[1:], row_segments.size
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

        previous = np.full(row_segments.size, NONE)
        previous[order[1:]] = order[:-1]
        carried = np.full(row_segments.size, NONE)
        first, last = order[starts], order[ends - 1]
        joins = np.zeros(row_segments.size, dtype=bool)
        for run, (parent_run, carry) in enumerate(before):
            previous[first[run]] = last[parent_run] if parent_run != NONE else NONE
            carried[first[run]] = carry
            joins[first[run]] = begun[run] and (parent_run, carry) != (NONE, NONE)
        offset = [self._begin(number) + self._segments[number].tokens for number in runs] - lengths - starts
        position = np.empty(row_segments.size, dtype=np.int64)
        position[order] = np.arange(row_segments.size) + np.repeat(offset.astype(np.int64), lengths)
        rows = TokenRows(
            count=flat.size,
            batch=segment.shape if segment.ndim == 2 else None,
            kept=positions,
            segment=row_segments,
            previous=previous,
            carried=carried,
            joins=joins,
            position=position,
            order=order,
            run=np.searchsorted(runs, row_segments) if runs else row_segments,
            runs=np.array(runs, dtype=np.int64),
            run_last=last,
            run_after=np.array([parent_run for parent_run, _ in before], dtype=np.int64),
            run_carried=np.array([carry for _, carry in before], dtype=np.int64),
            steered=tuple(segment.steered for segment in segments),
            reused=np.array(reused, dtype=np.int64),
            capacity=len(self),
        )
        if len(runs) == row_segments.size and np.array_equal(carried, row_segments):
            self._step = rows
        return rows

    def _next_step(self) -> TokenRows | None:
        """Return the rows of a pass over the last one's segments, each of which continues by one token again.

        So are most passes of decoding, whose rows then are nearly free; None where it is not so.
        """
        last = self._step
        segments = [] if last is None else [self._segments[number] for number in last.segment.tolist()]
        if last is None or any(segment.closed or not segment.tokens for segment in segments):
            return None
        for segment in segments:
            segment.tokens += 1
        return replace(last, position=last.position + 1, capacity=len(self), _fitted={})

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
