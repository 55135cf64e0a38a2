"""Which tokens of a forward pass are valid, in which segment of their sequence, and prompt or generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.capture.attribution import ExpectedRow, RowUse
from lm_eval_moe.capture.records import Span
from lm_eval_moe.errors import UserError

__all__ = ["BatchLayout", "GenerationTracker", "cut_points", "segments_of"]


def cut_points(row: ExpectedRow, length: int) -> list[int]:
    """Return where the row's sequence of ``length`` tokens is cut so that every use is a run of whole segments."""
    cuts = {cut for use in row.uses for cut in (use.boundary, use.first) if 0 < cut < length}
    return sorted(cuts)


def segments_of(use: RowUse, cuts: Sequence[int], length: int, span: Span) -> list[int]:
    """Return the segments of a row that make up one use's span."""
    edges = [0, *cuts, length]
    chosen = []
    for segment, (start, end) in enumerate(pairwise(edges)):
        if start < use.first:
            continue
        if use.whole or span == "all" or (end <= use.boundary) == (span == "prompt"):
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


def _unknown_decoding(problem: str) -> UserError:
    return UserError(
        f"{problem}: what is fed cannot be followed token by token, so it can be neither captured nor steered",
        fix="leave such options (num_beams, num_return_sequences, prompt_lookup_num_tokens ...) out of the generation "
        "arguments, or set capture=off and no steering",
    )


class GenerationTracker:
    """Follows one ``generate`` call from pass to pass.

    A row stops with the token that completes an end-of-sequence token or a stop string. That token is generated but,
    in a batch of one, never fed back; it and all that follows is not counted, so that records do not depend on the
    batch. The continuation of n generated tokens is thus the n - 1 that were fed, as a scored continuation is.

    Args:
        prompt_mask: ``[B, T0]`` attention mask of the left-padded prompts.
        stops: Given a row's generated tokens so far, whether the last of them ends the row.
    """

    def __init__(self, prompt_mask: NDArray[np.bool_], stops: Callable[[Sequence[int]], bool]) -> None:
        self._mask = prompt_mask
        # Segments are counted where there are tokens: without a prompt, the continuation is the first.
        self._continuation = prompt_mask.any(1).astype(np.int64)
        self._stops = stops
        self._columns = 0
        self._generated: list[list[int]] = [[] for _ in prompt_mask]
        self._stopped = np.zeros(len(prompt_mask), dtype=bool)
        self._last = np.full(len(prompt_mask), -1, dtype=np.int64)

    def layout(self, tokens: Sequence[Sequence[int]]) -> BatchLayout:
        """Return the layout of the next pass.

        Args:
            tokens: ``[B][T]`` the token ids of this pass.

        Raises:
            UserError: The pass is neither a part of the prompt nor one new token a row.
        """
        rows, width = len(tokens), len(tokens[0])
        prompt_width = self._mask.shape[1]
        start = self._columns
        if rows != len(self._mask):
            raise _unknown_decoding(
                f"generation runs {rows} rows for {len(self._mask)} prompts, as beam search and several return "
                "sequences do"
            )
        if width == 0:
            raise UserError(
                "a prompt has no tokens to generate from", fix="give it some text, or set add_bos_token=true"
            )
        if start + width > prompt_width and (start < prompt_width or width > 1):
            raise _unknown_decoding(
                f"generation feeds {width} tokens a row where one is expected, as assisted decoding and generation "
                "without a key-value cache do"
            )
        if start < prompt_width:
            segment = np.where(self._mask[:, start : start + width], 0, -1).astype(np.int64)
            generated = np.zeros_like(segment, dtype=bool)
        else:
            segment, generated = self._step([row[0] for row in tokens])
        before = self._last.copy()
        self._last = np.where(segment[:, -1] >= 0, segment[:, -1], -1)
        self._columns = start + width
        return BatchLayout(segment, generated, before, 2, prefill=start == 0)

    def _step(self, fed: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        for row, token in enumerate(fed):
            if not self._stopped[row]:
                self._generated[row].append(int(token))
                self._stopped[row] = self._stops(self._generated[row])
        segment = np.where(self._stopped, -1, self._continuation)[:, None]
        return segment, ~self._stopped[:, None]
