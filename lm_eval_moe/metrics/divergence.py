"""How far apart two sequences are routed: Jensen-Shannon divergence, plain and normalised by entropy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lm_eval_moe.metrics._checks import as_distributions, check_same_experts
from lm_eval_moe.metrics.entropy import entropy

__all__ = ["ENTROPY_GAP_FLOOR", "js_divergence", "normalized_js_divergence"]

ENTROPY_GAP_FLOOR = 1e-6
"""The smallest denominator of the normalised divergence (nats): two near-uniform rows have nothing to diverge by."""


def js_divergence(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Return the Jensen-Shannon divergence in nats.

    ``JS(p, q) = 1/2 KL(p || m) + 1/2 KL(q || m)`` with ``m = (p + q) / 2``; Lin (1991), "Divergence measures based on
    the Shannon entropy". It is the square of ``scipy.spatial.distance.jensenshannon(p, q)``.

    Args:
        p: Expert importance, shape ``[..., E]``, each row summing to 1.
        q: The same for the other sequence; leading axes broadcast against those of ``p``.

    Returns:
        Shape ``[...]``, in ``[0, ln 2]``.

    Raises:
        ValueError: Either is not a distribution over at least two experts, or the shapes do not fit.
    """
    left, right = as_distributions(p, "p"), as_distributions(q, "q")
    check_same_experts(left, right)
    left, right = np.broadcast_arrays(left, right)
    # Rounding can leave a sum of terms of both signs just outside the bounds.
    return np.clip(0.5 * (_kl_to_mean(left, right) + _kl_to_mean(right, left)), 0.0, np.log(2.0))


def _kl_to_mean(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """KL(p || (p + q) / 2), written so that the mean of two tiny values cannot underflow to zero."""
    ratio = np.divide(2.0 * p, p + q, out=np.ones_like(p), where=p > 0)
    return np.asarray(np.sum(p * np.log(ratio), axis=-1))


def normalized_js_divergence(p: ArrayLike, q: ArrayLike) -> NDArray[np.float64]:
    """Return the entropy-normalised Jensen-Shannon divergence of Bandarkar et al., arXiv 2510.04694.

    ``D_HJS(p, q) = JS(p, q) / max(ln E - (H(p) + H(q)) / 2, 1e-6)``, entropies in nats. Routing entropy falls with
    depth, and peaked rows can diverge further than flat ones: dividing by the room that the entropies leave makes
    layers comparable. Since ``H(m) <= ln E``, the value never exceeds 1.

    Args:
        p: Expert importance, shape ``[..., E]``, each row summing to 1.
        q: The same for the other sequence; leading axes broadcast against those of ``p``.

    Returns:
        Shape ``[...]``, in ``[0, 1]``.

    Raises:
        ValueError: Either is not a distribution over at least two experts, or the shapes do not fit.
    """
    divergence = js_divergence(p, q)
    gap = np.log(np.shape(p)[-1]) - 0.5 * (entropy(p) + entropy(q))
    return np.asarray(np.minimum(divergence / np.maximum(gap, ENTROPY_GAP_FLOOR), 1.0))
