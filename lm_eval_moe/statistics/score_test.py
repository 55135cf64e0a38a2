"""Is a run worse whose items are right or wrong: exact and score tests of a drop.

A drop is positive where the second run is worse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["mcnemar_worse_p", "score_z"]


def mcnemar_worse_p(worse: ArrayLike, better: ArrayLike) -> NDArray[np.float64]:
    """Return the one-sided p of McNemar's exact test that the second run is worse: ``P(X >= worse)``, X ~ B(n, 1/2).

    Args:
        worse: Items that are right in the first run only; any shape.
        better: Items that are right in the second run only; broadcast against ``worse``.
    """
    from scipy import special

    a, b = np.broadcast_arrays(np.asarray(worse, dtype=np.float64), np.asarray(better, dtype=np.float64))
    # P(X >= a) = I_{1/2}(a, b + 1), the regularised incomplete beta function; 1 for a = 0.
    return np.asarray(np.where(a > 0, special.betainc(np.maximum(a, 1), b + 1, 0.5), 1.0))


def score_z(worse: ArrayLike, better: ArrayLike, n: ArrayLike, drop: ArrayLike) -> NDArray[np.float64]:
    """Return Tango's score statistic of "the true drop is ``drop``" for paired right-or-wrong items.

    ``(w - b - n d) / sqrt(n (2 q + d - d^2))`` with q the likelihood's best share of items that only the second run has
    right, given d (T. Tango, Equivalence Test and Confidence Interval for the Difference in Proportions for the
    Paired-Sample Design, Statistics in Medicine 17, 1998). Large values speak for a larger drop.

    Args:
        worse: Items that are right in the first run only, w; any shape.
        better: Items that are right in the second run only, b; broadcast.
        n: Items in all.
        drop: A drop d between -1 and 1, exclusive.
    """
    w, b, total, d = (np.asarray(values, dtype=np.float64) for values in (worse, better, n, drop))
    linear = (2 * total - w + b) * d - w - b
    root = np.sqrt(np.maximum(linear**2 + 8 * total * b * d * (1 - d), 0.0))
    share = (root - linear) / (4 * total)
    variance = total * np.maximum(2 * share + d - d**2, 0.0)
    distance = w - b - total * d
    with np.errstate(divide="ignore", invalid="ignore"):
        z = distance / np.sqrt(variance)
    # No item changed and none was to change: nothing speaks either way.
    return np.asarray(
        np.where(variance > 1e-12 * total, z, np.where(np.abs(distance) < 1e-9, 0.0, np.copysign(np.inf, distance)))
    )
