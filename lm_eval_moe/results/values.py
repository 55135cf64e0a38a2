"""What is read of an evaluation: the labelled results, a metric's name, a task's score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.routing_fields import FIELDS, is_score
from lm_eval_moe.statistics import Estimate

__all__ = [
    "GAIN_SUFFIX",
    "LARGEST",
    "SHARES",
    "Average",
    "Divergence",
    "ErrorKind",
    "LabelledRun",
    "Metric",
    "Score",
    "is_number",
    "number_of",
]

SHARES = ("acc", "exact_match")
"""Beginnings of the names of metrics that are shares of items, in the order in which they are preferred."""

GAIN_SUFFIX = "_gain_over_control"
"""What follows a metric's name where its gain over random controls stands: ``acc_gain_over_control,none``."""

LARGEST = 1e100
"""No score, error or gain is larger: sums and squares of what is read stay finite."""


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value of a results file is a number that can be reckoned with."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    number: Any = value  # an integer may be too large for a float
    return bool(abs(number) <= LARGEST)


def number_of(value: object) -> float | None:
    """Return a number; lm-eval writes 'N/A' for a standard error that it does not know."""
    return float(value) if is_number(value) else None


@dataclass(frozen=True)
class LabelledRun:
    """One evaluation and what it is called.

    Attributes:
        label: Short and unique; the first run of a report is the baseline.
        results: As `lm_eval_moe.simple_evaluate` returns them, or as read from a results JSON. With ``samples`` in
            it (the lists of the samples log by task) differences between runs are paired item by item.
        logs: Samples logs by task, read when they are needed.
        source: The results file.
        stem: Its name without the date.
        date: The date in its name, as lm-eval writes it; empty if there is none.
        named: Whether the file was given by itself, not found in a directory.
        parts: For results merged from several files: the file's own results, by task.
    """

    label: str
    results: dict[str, Any]
    logs: Mapping[str, Path] = field(default_factory=dict)
    source: Path | None = None
    stem: str = ""
    date: str = ""
    named: bool = True
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """A metric under a filter, as lm-eval names it."""

    name: str
    filter: str

    @property
    def key(self) -> str:
        """Its key in the results, ``acc,none``."""
        return f"{self.name},{self.filter}"

    @property
    def is_share(self) -> bool:
        """Whether it is a share of items, which reads best in per cent."""
        return self.name.startswith(SHARES)

    @property
    def is_routing(self) -> bool:
        """Whether it is one of our result fields, which are logged once a document, whatever filters there are."""
        return not is_score(self.name) or self.name in FIELDS

    @property
    def title(self) -> str:
        """Its name in words where it has one, with the filter unless that is lm-eval's default."""
        return self.short if self.filter == "none" else f"{self.short} ({self.filter})"

    @property
    def short(self) -> str:
        """Its name without the filter."""
        return {"acc": "accuracy", "exact_match": "exact match"}.get(self.name, self.name)


ErrorKind = Literal["of one task", "clustered by item", "languages as independent", "unknown"]


@dataclass(frozen=True)
class Average(Estimate):
    """A mean over languages.

    Attributes:
        kind: What its standard error takes for independent: items with all their translations, or languages.
    """

    kind: ErrorKind = "unknown"


@dataclass(frozen=True)
class Score:
    """A task's value of one metric in one run.

    Attributes:
        estimate: Value and standard error as the run reports them.
        items: Per-document values by ``doc_id``, if the samples are there, are numbers and have the value as mean.
        documents: What names each document's content, by ``doc_id``; empty without samples.
        key: The metric's key in the results; empty where the value was computed from others.
    """

    estimate: Estimate
    items: Mapping[int, float] | None
    documents: Mapping[int, str]
    key: str = ""

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """The documents' ``doc_id`` in the items' order; empty without items."""
        return tuple(self.items or ())

    @cached_property
    def vector(self) -> NDArray[np.float64]:
        """The items' values in that order ``[n]``."""
        return np.fromiter((self.items or {}).values(), dtype=float)


@dataclass(frozen=True)
class Divergence:
    """A task's divergence to its reference: the middle-layer field, and its curve over the MoE layers."""

    middle: Score | None
    curve: tuple[float | None, ...] | None
