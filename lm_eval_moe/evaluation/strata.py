"""The documents behind averages over tasks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval_moe.routing_fields import FIELDS

if TYPE_CHECKING:
    from lm_eval_moe.parallel import TaskPairing

__all__ = ["LoggedDocuments", "Stratum"]


class Stratum(NamedTuple):
    """One value or more, each with the item that it belongs to, whose mean enters an average with a weight."""

    weight: float
    values: Sequence[tuple[Hashable, float]]

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return math.fsum(value for _, value in self.values) / len(self.values)


class LoggedDocuments:
    """The documents of one task as lm-eval logs them, and what names their items across languages.

    Args:
        samples: The task's entries in the results' ``samples``.
        pairing: What is known of the task.
    """

    def __init__(self, samples: Sequence[Mapping[str, Any]], pairing: TaskPairing) -> None:
        self._samples, self._pairing = samples, pairing
        self._known: dict[tuple[str, str], list[tuple[Hashable, float]] | None] = {}

    def values(self, metric: str, filtered: str, mean: float) -> list[tuple[Hashable, float]] | None:
        """Return each document's item and its value of a metric under a filter.

        None where a value is no number or ``mean``, the task's value, is not their mean (a perplexity).
        """
        if (metric, filtered) not in self._known:
            self._known[metric, filtered] = self._values(metric, filtered, mean)
        return self._known[metric, filtered]

    def _values(self, metric: str, filtered: str, mean: float) -> list[tuple[Hashable, float]] | None:
        found: list[tuple[Hashable, float]] = []
        for sample in self._samples:
            # Routing fields are logged once a document, under whichever filter comes first.
            if metric not in sample or (sample["filter"] != filtered and metric not in FIELDS):
                continue
            value = sample[metric]
            if not isinstance(value, Real) or not math.isfinite(value):
                return None
            item = self._pairing.item_key(sample["doc"], int(sample["doc_id"]))
            found.append(((self._pairing.benchmark, item), float(value)))
        if not found or not math.isclose(Stratum(1.0, found).mean, mean, rel_tol=1e-6, abs_tol=1e-9):
            return None
        return found
