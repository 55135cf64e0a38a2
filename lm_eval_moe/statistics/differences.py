"""Standard errors of means and differences over items and languages.

Pure functions on numbers. Items are the questions of a benchmark: the same question asked in several languages is one
cluster, since its answers are not independent (E. Miller, Adding Error Bars to Evals, arXiv 2411.00640, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Z95", "ClusteredValues", "Difference", "Estimate", "Group", "independent_mean", "unpaired"]

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""

Group = Sequence[tuple[Hashable, float]]
"""One language's values, each with the item that it belongs to."""


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error (None: unknown)."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Difference:
    """A difference of two means.

    Attributes:
        value: Second minus first.
        stderr: Its standard error; None where it cannot be known.
        how: Whether the items were paired.
        changed: How many values differ between the two runs; None if unpaired.
        values: How many values were compared; None if unpaired.
        clusters: How many items the values belong to (fewer than values where languages share them); None if unpaired.
    """

    value: float
    stderr: float | None
    how: Literal["paired", "unpaired"]
    changed: int | None = None
    values: int | None = None
    clusters: int | None = None


@dataclass(frozen=True)
class ClusteredValues:
    """Values of several groups (languages) whose clusters (items) may occur in several of them.

    Attributes:
        values: Floats ``[n]``.
        group: Group of each value, integers from 0 ``[n]``; no group is empty.
        cluster: Cluster of each value, integers from 0 ``[n]``; every integer up to the largest occurs.
        shares: What each group's mean counts for in the average ``[groups]``; None: all alike.

    Raises:
        ValueError: A value is not finite: NaN would pass for an item that did not change.
    """

    values: NDArray[np.float64]
    group: NDArray[np.int64]
    cluster: NDArray[np.int64]
    shares: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.values).all():
            raise ValueError("items have finite values")

    @classmethod
    def of(cls, groups: Sequence[Group], shares: Sequence[float] | None = None) -> ClusteredValues:
        """Number the clusters of groups in the order in which they occur."""
        numbers: dict[Hashable, int] = {}
        pairs = [pair for group in groups for pair in group]
        cluster = [numbers.setdefault(name, len(numbers)) for name, _ in pairs]
        return cls(
            np.array([value for _, value in pairs], dtype=float),
            np.repeat(np.arange(len(groups)), [len(group) for group in groups]),
            np.array(cluster, dtype=np.int64),
            None if shares is None else np.array(shares, dtype=float),
        )

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """How many values each group has."""
        return np.bincount(self.group)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """What each value counts for in the average over the groups of each group's mean."""
        if self.shares is None:
            return np.asarray(1.0 / (self.sizes[self.group] * len(self.sizes)))
        return np.asarray((self.shares / self.sizes)[self.group])

    @cached_property
    def turned(self) -> tuple[int, int] | None:
        """How many right-or-wrong items of one language rose and fell; None for any other values."""
        single_group = len(self.sizes) == 1 and len(self.values) == int(self.cluster.max()) + 1
        if not single_group or not np.isin(self.values, (-1.0, 0.0, 1.0)).all():
            return None
        return int((self.values > 0).sum()), int((self.values < 0).sum())

    def sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sum over each cluster of weights x values."""
        return np.bincount(self.cluster, weights=values * self.weights).astype(float)

    def mean(self) -> Estimate:
        """Return the average over the groups of each group's mean, with a standard error clustered by item.

        With ``u_c`` the sum over the values of item c of ``share x (x - mean of its group) / group size``, the variance
        is ``C / (C - 1) x sum of u_c^2`` over the C items. For one group this is the usual standard error of a mean.
        """
        means = np.bincount(self.group, weights=self.values) / self.sizes
        value = math.fsum(means) / len(means) if self.shares is None else math.fsum(self.shares * means)
        residuals = self.sums(self.values - means[self.group])
        count = len(residuals)
        if count < 2:
            return Estimate(value, None)
        return Estimate(value, math.sqrt(count / (count - 1) * float(residuals @ residuals)))

    def difference(self) -> Difference:
        """Return the mean of values that are per-item differences (second run minus first)."""
        estimate = self.mean()
        return Difference(
            value=estimate.value,
            stderr=estimate.stderr,
            how="paired",
            changed=int(np.count_nonzero(self.values)),
            values=len(self.values),
            clusters=int(self.cluster.max()) + 1,
        )


def independent_mean(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates; without a standard error if one of theirs is not known."""
    value = math.fsum(estimate.value for estimate in estimates) / len(estimates)
    errors = [estimate.stderr for estimate in estimates if estimate.stderr is not None]
    has_errors = len(errors) == len(estimates)
    return Estimate(
        value, math.sqrt(math.fsum(error * error for error in errors)) / len(errors) if has_errors else None
    )


def unpaired(first: Sequence[Estimate], second: Sequence[Estimate]) -> Difference:
    """Return the difference of two runs' means over groups (languages) of which only means and errors are known.

    The two runs are taken as independent. How the groups depend on each other is not known: the standard error is the
    mean of theirs, as large as any dependence can make it.
    """
    values = [after.value - before.value for before, after in zip(first, second, strict=True)]
    errors = [
        math.hypot(before.stderr, after.stderr)
        for before, after in zip(first, second, strict=True)
        if before.stderr is not None and after.stderr is not None
    ]
    stderr = math.fsum(errors) / len(values) if len(errors) == len(values) else None
    return Difference(math.fsum(values) / len(values), stderr, "unpaired")
