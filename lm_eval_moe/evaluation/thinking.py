"""How long the models' thinking was, and how often it never ended, task by task."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["ThinkingTally", "unended"]

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
