"""Metrics of whole curves: a model may let all tokens of an item skip a layer's experts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["where_routed"]


def where_routed(metric: Callable[..., NDArray[np.float64]], *values: ArrayLike) -> NDArray[np.float64]:
    """Return a metric of ``[..., L, E]`` arrays, NaN where the row of any of them is all zeros; shape ``[..., L]``.

    Args:
        metric: Such as `normalized_js_divergence`: from ``[n, E]`` arrays to ``[n]``; refuses anything else
            than distributions.
        values: What it is of; leading axes broadcast.
    """
    arrays = np.broadcast_arrays(*(np.asarray(array, dtype=np.float64) for array in values))
    routed = np.logical_and.reduce([array.sum(-1) > 0 for array in arrays])
    curves = np.full(routed.shape, np.nan)
    if routed.any():
        curves[routed] = metric(*(array[routed] for array in arrays))
    return curves
