"""What the documents of a task add up to: their routing, and how long the models' thinking was."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TaskTally", "ThinkingTally", "unended"]

logger = logging.getLogger(__name__)


@dataclass
class ThinkingTally:
    """Counts of one task's generated answers; tallies of several processes add up.

    Attributes:
        generations: Answers of a model that may think before it answers.
        ended: Those whose thinking ended.
        tokens: Tokens that were generated up to the end of thinking, all of these together.
    """

    generations: int = 0
    ended: int = 0
    tokens: int = 0

    def add(self, thinking: int | None) -> None:
        """Count the ``thinking`` of one record (see `RoutingRecord`)."""
        if thinking is not None:
            self.generations += 1
            self.ended += thinking > 0
            self.tokens += thinking

    def __add__(self, other: ThinkingTally) -> ThinkingTally:
        """Return what this and another process's tally add up to."""
        return ThinkingTally(self.generations + other.generations, self.ended + other.ended, self.tokens + other.tokens)

    def to_dict(self) -> dict[str, Any]:
        """Return what the results say."""
        return {
            "generations": self.generations,
            "never_ended": self.generations - self.ended,
            "mean_tokens": self.tokens / self.ended if self.ended else None,
        }


@dataclass
class TaskTally:
    """What one task's documents add up to; tallies of several processes add up."""

    documents: int = 0  # those with captured routing
    unrecorded: int = 0  # those none of whose requests reached the model under its name
    leaked: int = 0  # those that the steering's experts were selected on
    tokens: int = 0
    steered: int = 0  # (token, layer) pairs at which steering acted
    curves: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # name -> [2, L]: sums, counts
    thinking: ThinkingTally = field(default_factory=ThinkingTally)
    curve_documents: Counter[str] = field(default_factory=Counter)  # name -> documents with a value in any layer
    field_documents: Counter[str] = field(default_factory=Counter)  # result field -> documents with a value
    evaluated: list[tuple[int, str]] = field(default_factory=list)  # row and content hash of every document
    failed: Counter[str] = field(default_factory=Counter)  # what is wrong with a curve -> documents

    def add(self, name: str, curve: NDArray[np.float64]) -> None:
        """Add one document's curve; layers without a value (NaN) are left out of the mean."""
        finite = ~np.isnan(curve)
        self.curve_documents[name] += bool(finite.any())
        self.curves.setdefault(name, np.zeros((2, curve.size)))
        self.curves[name] += np.stack([np.where(finite, curve, 0.0), finite])

    def __add__(self, other: TaskTally) -> TaskTally:
        """Return what this and another process's tally add up to."""
        names = [field.name for field in fields(self) if field.name != "curves"]
        curves = self.curves | {name: self.curves.get(name, 0) + sums for name, sums in other.curves.items()}
        return TaskTally(curves=curves, **{name: getattr(self, name) + getattr(other, name) for name in names})

    def document_hash(self) -> str:
        """Return the start of a SHA-256 of which documents were evaluated: their rows and contents, in any order."""
        return hashlib.sha256(json.dumps(sorted(self.evaluated)).encode()).hexdigest()[:16]

    def means(self) -> dict[str, list[float | None]]:
        """Return each curve's mean over the documents, None at layers without a value."""
        return {
            name: [float(total / count) if count else None for total, count in sums.T]
            for name, sums in self.curves.items()
        }


def unended(task: str, tally: ThinkingTally) -> Iterator[str]:
    """Say of how many of a task's answers the thinking never ended, if it ended in none.

    Where it ended in some, the log says so: that is for the benchmark to weigh, and no mistake in how it was run.
    """
    missing = tally.generations - tally.ended
    message = (
        f"{task}: in {missing} of {tally.generations} answers the thinking never ended, so that lm-eval scored the "
        "thinking; look at max_gen_toks, at think_end_token, and at `until`: lm-eval ends the generation once all "
        "rows of a batch hold a stop string, even within the thinking"
    )
    if missing and tally.ended:
        logger.warning(message)
    elif missing:
        yield message
