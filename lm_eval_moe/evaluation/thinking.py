"""How long the models' thinking was, and how often it never ended, task by task."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval_moe.errors import RoutingWarning

__all__ = ["ThinkingTally", "warn_of_unended"]

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

    def merge(self, other: ThinkingTally) -> None:
        """Add another process's tally."""
        self.generations += other.generations
        self.ended += other.ended
        self.tokens += other.tokens

    def to_dict(self) -> dict[str, Any]:
        """Return what the results say."""
        return {
            "generations": self.generations,
            "never_ended": self.generations - self.ended,
            "mean_tokens": self.tokens / self.ended if self.ended else None,
        }


def warn_of_unended(tallies: Mapping[str, Sequence[ThinkingTally]]) -> None:
    """Say of which tasks' answers the thinking never ended: a warning where none of them did, else a line in the log.

    Args:
        tallies: Of every process, by task.
    """
    for task, parts in tallies.items():
        total = ThinkingTally()
        for part in parts:
            total.merge(part)
        missing = total.generations - total.ended
        message = (
            f"{task}: in {missing} of {total.generations} answers the thinking never ended, so that lm-eval scored the "
            "thinking; look at max_gen_toks, at think_end_token, and at `until`: lm-eval ends the generation once all "
            "rows of a batch hold a stop string, even within the thinking"
        )
        if missing and not total.ended:
            warnings.warn(message, RoutingWarning, stacklevel=3)
        elif missing:
            logger.warning(message)
