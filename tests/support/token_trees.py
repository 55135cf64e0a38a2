"""Requests that share what they begin with, drawn at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Drawn", "drawn_requests"]


class Drawn(NamedTuple):
    """A request as tokens: which document and choice it is, its context and its continuation."""

    document: int
    choice: int
    context: list[int]
    continuation: list[int]


def drawn_requests(seed: int, tokens: Sequence[int], documents: int = 12, longest: int = 40) -> list[Drawn]:
    """Return documents with choices: half behind the same examples, some equal, some with one choice or one token."""
    draw = random.Random(seed)

    def text(low: int, high: int) -> list[int]:
        return draw.choices(tokens, k=draw.randint(low, high))

    starts = [[], text(1, 3), text(longest // 2, longest), text(longest // 2, longest)]
    starts.append(starts[2] + text(1, 10))
    contexts: list[list[int]] = []
    found: list[Drawn] = []
    for document in range(documents):
        again = bool(contexts) and draw.random() < 0.2
        start = starts[2] if document % 2 else draw.choice(starts)
        contexts.append(draw.choice(contexts) if again else start + text(1, 12))
        kind = draw.choice(("few", "one token", "one", "long", "in the context"))
        choices = [text(1, {"one token": 1, "long": 15}.get(kind, 4)) for _ in range(1 if kind == "one" else 4)]
        if draw.random() < 0.3:
            choices.append(list(choices[0]))  # an equal choice
            choices.append(choices[0] + text(1, 3))  # one that goes on where another ends
        for choice, continuation in enumerate(choices):
            if kind == "in the context":  # as in Winogrande: what differs lies before what is scored
                found.append(Drawn(document, choice, contexts[-1] + continuation, choices[0]))
            else:
                found.append(Drawn(document, choice, contexts[-1], continuation))
    return found
