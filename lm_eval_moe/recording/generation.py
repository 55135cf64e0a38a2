"""Which tokens of a ``generate`` call count, and for what: the prompt, the thinking, or the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import UserError
from lm_eval_moe.recording.segments import Forest
from lm_eval_moe.recording.token_rows import NONE, Steered
from lm_eval_moe.routing_record import Span

__all__ = ["GenerationTracker", "Reading"]

_Part = Literal["prompt", "thinking", "answer", "after"]
_PARTS: dict[Span, tuple[_Part, ...]] = {
    "prompt": ("prompt",),
    "thinking": ("thinking",),
    "continuation": ("answer",),
    "all": ("prompt", "thinking", "answer"),
}


class Reading(Protocol):
    """Follows one row's generated tokens; `lm_eval_moe.backends.stopping.RowReading` is one."""

    thinking: int
    stopped: bool
    ended: bool

    def add(self, token: int) -> None:
        """Read the next generated token."""


def _unknown_decoding(problem: str) -> UserError:
    return UserError(
        f"{problem}: the input cannot be followed token by token, so it can be neither captured nor steered",
        fix="remove such options (num_beams, num_return_sequences, prompt_lookup_num_tokens ...) from the generation "
        "arguments, or use capture=off and no steering",
    )


class GenerationTracker:
    """Follows the rows of one batch, from pass to pass and from token to token.

    What counts is what lm-eval scores, and the thinking before it. The token that completes a stop string or ends the
    row is generated but, in a batch of one, never fed back; it and all that follows is not counted. The continuation
    of n generated tokens is thus the n - 1 that were fed, as a scored continuation is. All tokens of the thinking were
    fed, but for a last one that ends it when nothing follows.

    A model that thinks may end its thinking after a stop string, and more than once: everything generated before the
    last end is thinking then. Until a row has ended, its tokens are therefore counted (and steered) even after a stop
    string, and belong to no span unless such an end follows.

    Args:
        forest: Where the segments go.
        prompt_mask: ``[B, T0]`` attention mask of the left-padded prompts, behind what is in front of them.
        readings: One a row.
        languages: One a row.
        front: The segments of what all rows have in front, computed before.
        thinks: Whether the thinking is told from the answer; there is no thinking otherwise.

    Attributes:
        paths: The segments of each row, in their order.
    """

    def __init__(
        self,
        forest: Forest,
        prompt_mask: NDArray[np.bool_],
        readings: Sequence[Reading],
        languages: Sequence[str | None],
        *,
        front: Sequence[int] = (),
        thinks: bool = False,
    ) -> None:
        self._forest, self._mask, self._readings, self._thinks = forest, prompt_mask, readings, thinks
        self._generated = [Steered(language, generated=True) for language in languages]
        self._columns = 0
        self._rows = list(range(len(languages)))  # that are left
        self._new: list[_Part | None] = []  # of each of them: what the token is that it has generated
        before = front[-1] if front else NONE
        self.paths = [[*front, forest.add(before, Steered(language))] for language in languages]
        self._prompt = len(front) + 1  # segments of a prompt
        self._parts: list[list[_Part]] = [["prompt"] * self._prompt for _ in languages]

    def places_of(self, row: int, span: Span) -> list[int]:
        """Return the places, in a row's path, of the segments that make up a span."""
        return [place for place, part in enumerate(self._parts[row]) if part in _PARTS[span]]

    def thinking(self, row: int) -> int | None:
        """Return a row's generated tokens up to and including the end of its thinking (see `RoutingRecord`)."""
        return self._readings[row].thinking if self._thinks else None

    def fed(self, row: int) -> tuple[int, int]:
        """Return how many tokens of a row's prompt, and of what it generated, the model was called with."""
        tokens = [self._forest.tokens(segment) for segment in self.paths[row]]
        return sum(tokens[: self._prompt]), sum(tokens[self._prompt :])

    def next_pass(self, rows: int, width: int) -> NDArray[np.int64]:
        """Return the segments ``[B, T]`` of the tokens of the next pass.

        Args:
            rows: B, the rows that are left.
            width: T, a part of the prompt, or 1 for the token that was generated and read last.

        Raises:
            UserError: The pass is neither a part of the prompt nor one new token a row.
        """
        prompt_width = self._mask.shape[1]
        start = self._columns
        if rows != len(self._rows):
            raise _unknown_decoding(
                f"generation runs {rows} rows for {len(self._rows)} prompts, as beam search and several return "
                "sequences do"
            )
        if width == 0:
            raise UserError(
                "a prompt has no tokens to generate from", fix="give it some text, or set add_bos_token=true"
            )
        if start + width > prompt_width and (start < prompt_width or width > 1):
            if start >= prompt_width and width == start + 1:
                raise UserError(
                    "generation feeds the whole text again for every token, as a model without a key-value cache does: "
                    "what it generates can be neither captured nor steered",
                    fix="choose tasks that score texts, or use capture=off and no steering; a model that can cache "
                    "needs use_cache in its config",
                )
            raise _unknown_decoding(
                f"generation feeds {width} tokens per row where one is expected, as assisted decoding does"
            )
        self._columns = start + width
        if start < prompt_width:
            prompts = np.array([path[self._prompt - 1] for path in self.paths])
            return np.where(self._mask[:, start : start + width], prompts[:, None], NONE)
        if len(self._new) != rows:
            raise RuntimeError("a token is fed that was not read")
        new, self._new = self._new, []
        return np.array([[self._place(row, part)] for row, part in zip(self._rows, new, strict=True)])

    def read(self, tokens: Sequence[int]) -> list[bool]:
        """Read the token that each row has generated; return which rows have ended.

        The last one is never fed, but may end the thinking.
        """
        self._new = [self._read(row, token) for row, token in zip(self._rows, tokens, strict=True)]
        return [self._readings[row].ended for row in self._rows]

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the rows that are left, by their places among these."""
        self._rows = [self._rows[place] for place in places]
        self._new = [self._new[place] for place in places]

    def _place(self, row: int, part: _Part | None) -> int:
        """Return the segment of the next token of a row, `NONE` where it does not count."""
        if part is None:
            return NONE
        if part != self._parts[row][-1]:
            self._parts[row].append(part)
            self.paths[row].append(self._forest.add(self.paths[row][-1], self._generated[row]))
        return self.paths[row][-1]

    def _read(self, row: int, token: int) -> _Part | None:
        """Read the next token of a row; return which part of the sequence it belongs to, if any."""
        reading, parts = self._readings[row], self._parts[row]
        if self._readings[row].ended:
            return None
        before = reading.thinking
        reading.add(int(token))
        thought = reading.thinking != before
        if thought:
            parts[self._prompt :] = ["thinking"] * (len(parts) - self._prompt)
        if reading.ended:
            return None
        return "thinking" if thought else "after" if reading.stopped else "answer"
