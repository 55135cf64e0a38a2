"""lm-eval's requests and their names: whose tokens a row of a batch will hold.

What is known about a request is made when it is asked for: a run has a hundred thousand of them, and works on a batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lm_eval_moe.harness.requests import window_count
from lm_eval_moe.recording import ExpectedRow, RequestKey, RowUse

if TYPE_CHECKING:
    from lm_eval_moe.harness.requests import Instance

__all__ = ["NOBODY", "LabelQueue", "RequestLabel", "TokenRequests", "labels_of", "window_labels"]

# (cache key, context tokens, continuation tokens), as HFLM._loglikelihood_tokens takes them.
TokenRequest = tuple[Any, list[int], list[int]]


@dataclass(frozen=True, slots=True)
class RequestLabel:
    """Names a request, or one window of a rolling text.

    Attributes:
        key: The request's key; None for rows that only even out the work of several processes.
        task: Its task, which decides its language.
        window: Which window of a rolling text; None for other requests.
    """

    key: RequestKey | None
    task: str | None
    window: int | None = None

    def use(self, length: int, scored: int) -> RowUse:
        """Return the use of a row of ``length`` tokens that scores the last ``scored`` tokens of a sequence."""
        boundary = max(length - (scored - 1), 0)
        if self.window is None:
            return RowUse(self.key, boundary)
        # A later window's context repeats tokens of the one before, but for its last, which no window has had.
        first = boundary - 1 if self.window else 0
        return RowUse(self.key, boundary, first=first, whole=True, window=self.window)


NOBODY = RequestLabel(None, None)
"""The label of rows that no task asked for."""


def labels_of(requests: Sequence[Instance]) -> list[RequestLabel]:
    """Label requests by task, document, index and repeat.

    Copies beyond a request's repeats, which only even out the work of several processes, have no key.
    """
    repeats: Counter[tuple[Any, ...]] = Counter()
    labels = []
    for request in requests:
        name = (request.task_name, request.doc_id, request.idx)
        repeat = repeats[name]
        repeats[name] += 1
        is_labelled = request.task_name is not None and request.doc_id is not None and repeat < (request.repeats or 1)
        labels.append(RequestLabel(RequestKey(*name, repeat) if is_labelled else None, request.task_name))
    return labels


def window_labels(
    labels: Sequence[RequestLabel], texts: Sequence[list[int]], prefix_token: int, max_length: int
) -> list[RequestLabel]:
    """Label the windows that lm-eval cuts long texts into, text by text.

    Args:
        labels: One a text.
        texts: Their tokens.
        prefix_token: What comes before the first token.
        max_length: Tokens that the model takes.
    """
    windows = []
    for label, tokens in zip(labels, texts, strict=True):
        windows += [replace(label, window=number) for number in range(window_count(tokens, prefix_token, max_length))]
    return windows


class LabelQueue:
    """The labels of the token requests to come, in the order in which lm-eval makes them."""

    def __init__(self, labels: Sequence[RequestLabel] = ()) -> None:
        self._labels = list(labels)
        # Distributed rolling runs repeat their first window to even out the work: those rows are nobody's.
        self._filler = replace(labels[0], key=None, window=None) if labels else NOBODY

    def take(self, count: int) -> list[RequestLabel]:
        """Return the next labels, and fillers once there are none left."""
        labels, self._labels = self._labels[:count], self._labels[count:]
        return labels + [self._filler] * (count - len(labels))


class TokenRequests:
    """Log-likelihood requests as tokens, with their labels and languages.

    Args:
        requests: As ``HFLM._loglikelihood_tokens`` takes them.
        labels: One a request.
        languages: One a request: what decides which interventions apply to it.
        max_length: Tokens that the model takes.
    """

    def __init__(
        self,
        requests: Sequence[TokenRequest],
        labels: Sequence[RequestLabel],
        languages: Sequence[str | None],
        max_length: int,
    ) -> None:
        self.requests, self.languages = requests, languages
        self._labels, self._longest = labels, max_length + 1

    def tokens(self, index: int) -> tuple[int, ...]:
        """Return what the model is called with: all but the last token, from the left only as many as it takes."""
        _, context, continuation = self.requests[index]
        return tuple((context + continuation)[-self._longest : -1])

    def length(self, index: int) -> int:
        """Return how many tokens the model is called with."""
        _, context, continuation = self.requests[index]
        return min(len(context) + len(continuation), self._longest) - 1

    def use(self, index: int) -> RowUse:
        """Return the request's use of its row."""
        return self._labels[index].use(self.length(index), len(self.requests[index][2]))

    def rows(self, order: Sequence[Sequence[int]], indices: Sequence[int]) -> Iterator[ExpectedRow]:
        """Yield the rows of some requests.

        Args:
            order: The rows as positions in ``indices``; a row holds the tokens of its first request.
            indices: The requests that are run together.
        """
        for row in order:
            first = indices[row[0]]
            uses = tuple(self.use(indices[position]) for position in row)
            yield ExpectedRow(uses, self.languages[first], self.tokens(first))
