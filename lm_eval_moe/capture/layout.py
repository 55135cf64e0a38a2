"""Which tokens of a forward pass are valid, in which segment of their sequence, and prompt or generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.capture.attribution import ExpectedRow, RowUse
from lm_eval_moe.capture.records import Span

__all__ = ["BatchLayout", "cut_points", "segments_of"]


def cut_points(row: ExpectedRow, length: int) -> list[int]:
    """Return where the row's sequence of ``length`` tokens is cut so that every use is a run of whole segments."""
    cuts = {cut for use in row.uses for cut in (use.boundary, use.first) if 0 < cut < length}
    return sorted(cuts)


def segments_of(use: RowUse, cuts: Sequence[int], length: int, span: Span) -> list[int]:
    """Return the segments of a row of given text that make up one use's span; there is no thinking in it."""
    edges = [0, *cuts, length]
    chosen = []
    for segment, (start, end) in enumerate(pairwise(edges)):
        if start < use.first:
            continue
        if use.whole or span in ("all", "prompt" if end <= use.boundary else "continuation"):
            chosen.append(segment)
    return chosen


@dataclass(frozen=True)
class BatchLayout:
    """One forward pass: B rows of T tokens.

    Attributes:
        segment: ``[B, T]`` segment of each token in its row's sequence, -1 for padding and post-stop tokens.
        generated: ``[B, T]`` whether the token belongs to the continuation.
        before: ``[B]`` segment of the token just before this pass, -1 if there is none.
        segments: How many segments a row of the batch has at most, S.
        prefill: Whether this is the first pass over the rows.
    """

    segment: NDArray[np.int64]
    generated: NDArray[np.bool_]
    before: NDArray[np.int64]
    segments: int
    prefill: bool = True

    @staticmethod
    def of_rows(rows: Sequence[ExpectedRow], width: int) -> BatchLayout:
        """Return the layout of a right-padded batch of whole sequences."""
        segment = np.full((len(rows), width), -1, dtype=np.int64)
        generated = np.zeros((len(rows), width), dtype=bool)
        for index, row in enumerate(rows):
            length = len(row.tokens or ())
            edges = [0, *cut_points(row, length), length]
            for number, (start, end) in enumerate(pairwise(edges)):
                segment[index, start:end] = number
            generated[index, row.uses[0].boundary : length] = True
        return BatchLayout(segment, generated, np.full(len(rows), -1), int(segment.max()) + 1)

    @staticmethod
    def all_valid(rows: int, width: int) -> BatchLayout:
        """Return a layout in which every token counts as prompt."""
        return BatchLayout(np.zeros((rows, width), np.int64), np.zeros((rows, width), bool), np.full(rows, -1), 1)

    def tallies(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return ``[B, S]`` tokens of each segment, and 1 where a segment begins right after another one."""
        previous = np.concatenate([self.before[:, None], self.segment[:, :-1]], axis=1)
        numbers = np.arange(self.segments)
        here = self.segment[..., None] == numbers
        starts = here & ((previous >= 0) & (previous != self.segment))[..., None]
        return here.sum(1), starts.sum(1)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """``[B, T]`` whether the token counts."""
        return self.segment >= 0
