"""Differences of activation frequencies that rounding errors do not decide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["difference"]

_DECIMALS = 12


def difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``first - second`` to 12 decimals.

    Frequencies are ratios of counts, so that a difference is often exactly the threshold, 0.8 - 0.5 against 0.3 say.
    In binary it then comes out a little above or below, and with it the expert.
    """
    return np.round(first - second, _DECIMALS)
