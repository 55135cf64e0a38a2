"""Which row each token of a pass belongs to, whatever runs the model: single passes, a loop, or ``generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary, ref

import numpy as np

from lm_eval_moe.errors import UserError
from lm_eval_moe.library.routing import PARTS, RowRecords
from lm_eval_moe.recording import NONE, Forest, Recorder, Steered, TokenRows
from lm_eval_moe.routing_record import ARRAYS, RoutingRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lm_eval_moe.recording.sums import SegmentSums

__all__ = ["GenerationState", "Rows"]

# Rows that nothing can continue with are read off the device so many at a time.
_AT_ONCE = 64


@dataclass(eq=False)
class _Row:
    """One sequence: its segments with the part of the sequence that each belongs to, and in the end its records."""

    path: list[tuple[int, Literal["prompt", "continuation"]]] = field(default_factory=list)
    ended: bool = False
    records: RowRecords | None = None


@dataclass(eq=False)
class _Batch:
    """Rows that one cache has the keys and values of, and how many columns of tokens it has seen."""

    rows: list[_Row]
    columns: int = 0
    cache: ref[Any] | None = None


class GenerationState:
    """One call of ``generate``.

    Attributes:
        batch: Its rows, once it has begun with the prompts.
        decoding: Whether a token has been generated.
    """

    def __init__(self) -> None:
        self.batch: _Batch | None = None
        self.decoding = False

    def mark_ended(self, ended: Sequence[bool]) -> None:
        """Learn, after each token, which rows are over: what they are fed from now on is padding."""
        self.decoding = True
        if self.batch is not None and len(ended) == len(self.batch.rows):
            for row, over in zip(self.batch.rows, ended, strict=True):
                row.ended = row.ended or over


class Rows:
    """The rows of the passes of one model, under one steering.

    A pass continues with the rows of the cache that it is given, if a pass under the same steering has filled that
    cache, and begins new ones otherwise. In ``generate``, what is fed before the first new token is the prompt;
    elsewhere, what a row begins with.

    Args:
        steered: What decides how the tokens are steered, but for the part of the sequence.
    """

    def __init__(self, steered: Steered) -> None:
        self.forest = Forest()
        self._steered = steered
        self._rows: list[_Row] = []
        self._batches: WeakKeyDictionary[Any, _Batch] = WeakKeyDictionary()
        self._open: list[_Batch] = []
        self._now: _Batch | None = None

    def begin_pass(
        self, shape: tuple[int, int], mask: NDArray[np.bool_], cache: Any, generating: GenerationState | None
    ) -> TokenRows:
        """Take the tokens of the next pass.

        Args:
            shape: B sequences of T tokens.
            mask: ``[B, T]``, False at padding.
            cache: The key-value cache that the pass continues from, None for none.
            generating: The call of ``generate`` that runs it, if one does.

        Raises:
            UserError: A generation feeds other rows than it began with, or several tokens at once.
        """
        batch = self._batch(shape[0], cache)
        if generating is not None:
            if generating.batch not in (None, batch) or (generating.decoding and shape[1] != 1):
                raise UserError(
                    "generate feeds something other than one more token of each row",
                    fix="generate with a key-value cache, without beam search and without an assistant",
                )
            if generating.batch is None:
                generating.batch = batch
                for row in batch.rows:
                    row.ended = False
        first = not batch.columns
        decoding = generating.decoding if generating is not None else not first
        part: Literal["prompt", "continuation"] = "continuation" if decoding else "prompt"
        batch.columns += shape[1]
        segments = np.array([NONE if row.ended else self._segment(row, part) for row in batch.rows])
        self._now = batch
        return self.forest.begin_pass(np.where(mask, segments[:, None], NONE))

    def end_pass(self, cache: Any) -> None:
        """Learn which cache holds the pass that has just ended; None: none, so that nothing can continue with it."""
        batch, self._now = self._now, None
        if batch is None or cache is None or self._batches.get(cache) is batch:
            return
        self._batches[cache] = batch
        batch.cache = ref(cache)

    def collect(self, recorder: Recorder | None, *, everything: bool) -> None:
        """Read the records of rows that nothing can continue with; with ``everything``, of all that have none yet."""
        over = [batch for batch in self._open if everything or batch.cache is None or batch.cache() is None]
        rows = [row for batch in over for row in batch.rows]
        if not rows or (len(rows) < _AT_ONCE and not everything):
            return
        self._open = [batch for batch in self._open if batch not in over]
        if recorder is None:  # steered, and nothing else is asked
            self._rows = [row for batch in self._open for row in batch.rows]
        else:
            for row, sums in zip(rows, recorder.sums_of([[at for at, _ in row.path] for row in rows]), strict=True):
                row.records = {span: _record(sums, [part for _, part in row.path], span) for span in PARTS}
        self.forest.release(at for row in rows for at, _ in row.path)

    def drop_pass(self) -> None:
        """Let the rows of a pass that was cut off be without records."""
        batch, self._now = self._now, None
        self._open = [open_batch for open_batch in self._open if open_batch is not batch]

    def records(self) -> list[RowRecords]:
        """Return what has been collected, in the order in which the rows began."""
        return [row.records for row in self._rows if row.records is not None]

    def _batch(self, rows: int, cache: Any) -> _Batch:
        """Return the rows that a pass continues with, or new ones."""
        batch = self._batches.get(cache) if cache is not None else None
        length = getattr(cache, "get_seq_length", lambda: None)()
        if batch is not None and len(batch.rows) == rows and length in (None, batch.columns):
            return batch
        begun = _Batch([_Row() for _ in range(rows)])
        self._rows += begun.rows
        self._open.append(begun)
        return begun

    def _segment(self, row: _Row, part: Literal["prompt", "continuation"]) -> int:
        if not row.path or row.path[-1][1] != part:
            before = row.path[-1][0] if row.path else NONE
            steered = self._steered._replace(generated=part == "continuation")
            row.path.append((self.forest.add(before, steered), part))
        return row.path[-1][0]


def _record(sums: SegmentSums, parts: Sequence[str], span: str) -> RoutingRecord:
    """Return the record of a span: of several turns, the stretches that belong to it, pooled."""
    belongs = [span in ("all", part) for part in parts]
    stretches = [
        [n for n, _ in group] for belongs_here, group in groupby(enumerate(belongs), itemgetter(1)) if belongs_here
    ]
    return RoutingRecord.pooled([sums.take(group, group, ARRAYS) for group in stretches or [[]]])
