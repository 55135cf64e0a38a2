"""Which tokens of a ``generate`` call count, and for what: the prompt, the thinking, or the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.capture.layout import BatchLayout
from lm_eval_moe.capture.records import Span
from lm_eval_moe.errors import UserError

__all__ = ["GENERATED", "GenerationTracker", "Reading"]

_PROMPT, _ANSWER, _THINKING, _AFTER = range(4)
_SEGMENTS: dict[Span, list[int]] = {
    "prompt": [_PROMPT],
    "thinking": [_THINKING],
    "continuation": [_ANSWER],
    "all": [_PROMPT, _THINKING, _ANSWER],
}

GENERATED = (_THINKING, _ANSWER, _AFTER)
"""The segments of what a row generates, in their order; all of it is thinking where the thinking ends after it."""


class Reading(Protocol):
    """Follows one row's generated tokens; `lm_eval_moe.backends.stopping.RowReading` is one."""

    thinking: int
    stopped: bool
    ended: bool

    def add(self, token: int) -> None:
        """Read the next generated token."""


def _unknown_decoding(problem: str) -> UserError:
    return UserError(
        f"{problem}: what is fed cannot be followed token by token, so it can be neither captured nor steered",
        fix="leave such options (num_beams, num_return_sequences, prompt_lookup_num_tokens ...) out of the generation "
        "arguments, or set capture=off and no steering",
    )


class GenerationTracker:
    """Follows one ``generate`` call from pass to pass.

    What counts is what lm-eval scores, and the thinking before it. The token that completes a stop string or ends the
    row is generated but, in a batch of one, never fed back; it and all that follows is not counted. The continuation
    of n generated tokens is thus the n - 1 that were fed, as a scored continuation is. All tokens of the thinking were
    fed, but for a last one that ends it when nothing follows.

    A model that thinks may end its thinking after a stop string, and more than once: everything before the last end is
    thinking then. Until a row has ended, its tokens are therefore valid (and steered) even after a stop string.

    Args:
        prompt_mask: ``[B, T0]`` attention mask of the left-padded prompts.
        readings: One a row.
        thinks: Whether the thinking is told from the answer; there is no thinking otherwise.

    Attributes:
        thought: ``[B]`` rows whose thinking ended with the tokens seen last: their ``GENERATED`` segments are one from
            here on.
    """

    def __init__(self, prompt_mask: NDArray[np.bool_], readings: Sequence[Reading], *, thinks: bool = False) -> None:
        self._mask, self._readings, self._thinks = prompt_mask, readings, thinks
        self._columns = 0
        self._last = np.full(len(prompt_mask), -1, dtype=np.int64)
        self.thought = np.zeros(len(prompt_mask), dtype=bool)

    def segments_of(self, span: Span) -> list[int]:
        """Return the segments that make up a span, in their order."""
        return [segment for segment in _SEGMENTS[span] if self._thinks or segment != _THINKING]

    def thinking(self, row: int) -> int | None:
        """Return a row's generated tokens up to and including the end of its thinking (see `RoutingRecord`)."""
        return self._readings[row].thinking if self._thinks else None

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
            segment = np.where(self._mask[:, start : start + width], _PROMPT, -1).astype(np.int64)
            generated = np.zeros_like(segment, dtype=bool)
        else:
            segment = self._read([row[0] for row in tokens])[:, None]
            generated = segment >= 0
        before = np.where(self.thought & (self._last > _PROMPT), _THINKING, self._last)
        self._last = np.where(segment[:, -1] >= 0, segment[:, -1], -1)
        self._columns = start + width
        return BatchLayout(segment, generated, before, 4 if self._thinks else 2, prefill=start == 0)

    def finish(self, tokens: Sequence[int]) -> None:
        """Read each row's last token, which is never fed but may end the thinking."""
        self._read(tokens)

    def _read(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        """Read the next token of every row; return the segments ``[B]`` that they belong to, -1 for none."""
        segment = np.full(len(tokens), -1, dtype=np.int64)
        self.thought = np.zeros(len(tokens), dtype=bool)
        for row, (reading, token) in enumerate(zip(self._readings, tokens, strict=True)):
            if reading.ended:
                continue
            before = reading.thinking
            reading.add(int(token))
            self.thought[row] = reading.thinking != before
            if not reading.ended:
                segment[row] = _THINKING if self.thought[row] else _AFTER if reading.stopped else _ANSWER
        return segment
