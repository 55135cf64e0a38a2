"""The metrics of whole curves: layer by layer, NaN where a model let all tokens of an item skip its experts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lm_eval_moe.metrics.divergence import normalized_js_divergence
from lm_eval_moe.metrics.entropy import normalized_entropy
from lm_eval_moe.metrics.overlap import expert_overlap

__all__ = ["routed_divergence", "routed_entropy", "routed_overlap"]

Values = NDArray[np.float64]


def routed_divergence(p: ArrayLike, q: ArrayLike) -> Values:
    """Return `normalized_js_divergence` of ``[..., L, E]`` importance, NaN where either row is all zeros.

    Args:
        p: Expert importance, each row summing to 1 or to 0.
        q: The same for the other sequence; leading axes broadcast against those of ``p``.

    Returns:
        Shape ``[..., L]``.

    Raises:
        ValueError: A row that is not all zeros is no distribution, or the shapes do not fit.
    """
    return _where_routed(normalized_js_divergence, p, q)


def routed_entropy(q: ArrayLike) -> Values:
    """Return `normalized_entropy` of ``[..., L, E]`` importance, NaN where a row is all zeros; shape ``[..., L]``.

    Raises:
        ValueError: A row that is not all zeros is no distribution.
    """
    return _where_routed(normalized_entropy, q)


def routed_overlap(f_p: ArrayLike, f_q: ArrayLike, top: int, tie_p: ArrayLike, tie_q: ArrayLike) -> Values:
    """Return `expert_overlap` of ``[..., L, E]`` frequencies, NaN where a row of any of the four is all zeros.

    Args:
        f_p: Activation frequencies, or counts, of one sequence.
        f_q: The same for the other.
        top: How many experts make a set.
        tie_p: Tie-breaker for ``f_p``, gate mass or importance.
        tie_q: Tie-breaker for ``f_q``.

    Returns:
        Shape ``[..., L]``.

    Raises:
        ValueError: Negative frequencies, shapes that do not fit, or ``top`` out of range.
    """
    return _where_routed(lambda a, b, c, d: expert_overlap(a, b, top, c, d), f_p, f_q, tie_p, tie_q)


def _where_routed(metric: Callable[..., Values], *values: ArrayLike) -> Values:
    arrays = np.broadcast_arrays(*(np.asarray(array, dtype=np.float64) for array in values))
    routed = np.logical_and.reduce([array.sum(-1) > 0 for array in arrays])
    curves: Values = np.full(routed.shape, np.nan)
    if routed.any():
        curves[routed] = metric(*(array[routed] for array in arrays))
    return curves
