"""The documents behind averages over tasks."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from lm_eval_moe.routing_fields import FIELDS

if TYPE_CHECKING:
    from lm_eval_moe.pairing import TaskPairing

__all__ = ["Stratum", "logged_values"]


class Stratum(NamedTuple):
    """One value or more, each with the item that it belongs to, whose mean enters an average with a weight."""

    weight: float
    values: Sequence[tuple[Hashable, float]]

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return fmean(value for _, value in self.values)


def logged_values(
    samples: Sequence[Mapping[str, Any]], pairing: TaskPairing, metric: str, filtered: str, mean: float
) -> list[tuple[Hashable, float]] | None:
    """Return the item of each document of a task, and its value of a metric under a filter.

    Args:
        samples: The task's entries in the results' ``samples``.
        pairing: What is known about the task.
        metric: The metric.
        filtered: The filter's name.
        mean: The task's value.

    Returns:
        None where a value is not a number or ``mean`` is not their mean (a perplexity).
    """
    values: list[tuple[Hashable, float]] = []
    for sample in samples:
        # Routing fields are logged once a document, under whichever filter comes first.
        if metric not in sample or (sample["filter"] != filtered and metric not in FIELDS):
            continue
        value = sample[metric]
        if not isinstance(value, Real) or not math.isfinite(value):
            return None
        item = pairing.item_key(sample["doc"], int(sample["doc_id"]))
        values.append(((pairing.benchmark, item), float(value)))
    if not values or not math.isclose(Stratum(1.0, values).mean, mean, rel_tol=1e-6, abs_tol=1e-9):
        return None
    return values
