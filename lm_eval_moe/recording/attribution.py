"""Which request every row of a batch belongs to.

lm-eval reorders requests, lets one row serve several one-token choices, and calls the model without saying which
request a row is. The order in which it does so is deterministic, so the rows are expected in that order, and every
row is checked against the tokens that its request must have: a mismatch is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

__all__ = ["AttributionError", "ExpectedRow", "RequestKey", "RowQueue", "RowUse"]


class AttributionError(RuntimeError):
    """The harness ran rows in another order than expected; no record could be trusted."""


class RequestKey(NamedTuple):
    """Names a request: lm-eval's task, document and index (the choice), and which of its repeats."""

    task: str
    doc_id: int
    idx: int
    repeat: int = 0


@dataclass(frozen=True, slots=True)
class RowUse:
    """One request's use of a row.

    Attributes:
        key: The request; None for rows that only even out the processes' work.
        boundary: Tokens before this position (from the row's first valid one) are the prompt, the others the
            continuation.
        first: Tokens before this position belong to an earlier window of the same document and are not counted again.
        whole: The request has no prompt of its own (rolling log-likelihood): every span is all of its tokens.
        window: Which window of its document the row is.
    """

    key: RequestKey | None
    boundary: int
    first: int = 0
    whole: bool = False
    window: int = 0


@dataclass(frozen=True, slots=True)
class ExpectedRow:
    """A row that the model will be called with.

    Attributes:
        tokens: The tokens of the row without padding; None where they are only known when the batch is made.
        text: The prompt's text, checked instead of tokens then.
        uses: The requests that it serves.
        language: The language that decides which interventions apply to it.
        plan: Which plan steers it, where requests run under several plans at once; 0 is the one in force.
    """

    uses: tuple[RowUse, ...]
    language: str | None = None
    tokens: tuple[int, ...] | None = None
    text: str | None = None
    plan: int = 0


class RowQueue:
    """The rows to come, in the order in which the harness will run them.

    Args:
        rows: Made one by one as they are taken: a long run has a hundred thousand, a batch a few dozen.
        count: How many there are.
    """

    def __init__(self, rows: Iterator[ExpectedRow], count: int) -> None:
        self._rows, self._left = rows, count

    def take_tokens(self, batch: Sequence[Sequence[int]]) -> list[ExpectedRow]:
        """Take the next rows and check that each row of a right-padded batch begins with its expected tokens."""
        rows = self._take(len(batch))
        for row, tokens in zip(rows, batch, strict=True):
            expected = row.tokens or ()
            if tuple(tokens[: len(expected)]) != expected:
                raise AttributionError(
                    "the model was called with tokens other than those of the next request; lm-eval's batching "
                    "has changed and routing cannot be attributed to requests"
                )
        return rows

    def take_texts(self, texts: Sequence[str]) -> list[ExpectedRow]:
        """Take the next rows and check that they have these prompts."""
        rows = self._take(len(texts))
        if [row.text for row in rows] != list(texts):
            raise AttributionError(
                "the model was called with prompts other than those of the next requests; lm-eval's batching has "
                "changed and routing cannot be attributed to requests"
            )
        return rows

    def take_cut(self, batch: Sequence[Sequence[int]]) -> list[ExpectedRow]:
        """Take the next rows and check that each has its expected tokens, but for some that may be cut out."""
        rows = self._take(len(batch))
        for row, tokens in zip(rows, batch, strict=True):
            expected = row.tokens or ()
            matches = [token == expected_token for token, expected_token in zip(tokens, expected, strict=False)]
            head = matches.index(False) if False in matches else len(matches)
            rest = len(tokens) - head
            if len(tokens) > len(expected) or (rest and tuple(tokens[head:]) != expected[-rest:]):
                raise AttributionError(
                    "the model was called with prompts other than those of the next requests; lm-eval's batching "
                    "has changed and routing cannot be attributed to requests"
                )
        return rows

    def _take(self, count: int) -> list[ExpectedRow]:
        if count > self._left:
            raise AttributionError(f"the model was called with {count} rows, but only {self._left} requests are left")
        self._left -= count
        return list(islice(self._rows, count))

    def finish(self) -> None:
        """Check that every expected row has come."""
        if self._left:
            raise AttributionError(f"{self._left} requests were never run")
