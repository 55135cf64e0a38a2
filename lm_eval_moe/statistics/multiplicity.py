"""Several tests at once: keep the chance of any false alarm at the level of one test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted by Holm's step-down method, in the order given.

    The i-th smallest of m (from 0) becomes the largest of ``(m - j) x p_(j)`` over j <= i, at most 1. To reject where
    the adjusted value is below alpha keeps the family-wise error rate at alpha, however the tests depend on each
    other (S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979).

    Raises:
        ValueError: A value is not a probability.
    """
    values = np.asarray(p_values, dtype=float)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values lie between 0 and 1, got {list(p_values)}")
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(p) for p in adjusted]
