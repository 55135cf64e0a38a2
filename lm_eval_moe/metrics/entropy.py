"""How evenly a sequence spreads over the experts of a layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lm_eval_moe.metrics._checks import as_distributions

__all__ = ["entropy", "normalized_entropy"]


def entropy(q: ArrayLike) -> NDArray[np.float64]:
    """Return the Shannon entropy ``H(q) = -sum_k q_k ln q_k`` in nats, with ``0 ln 0 = 0``.

    Args:
        q: Expert importance, shape ``[..., E]``, each row summing to 1.

    Returns:
        Shape ``[...]``, in ``[0, ln E]``.

    Raises:
        ValueError: ``q`` is not a distribution over at least two experts.
    """
    rows = as_distributions(q, "q")
    logs = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
    # Rounding alone can leave the sum outside the bounds by an ulp, and a one-hot row would give -0.0.
    return np.asarray(np.clip(-np.sum(rows * logs, axis=-1), 0.0, np.log(rows.shape[-1])) + 0.0)


def normalized_entropy(q: ArrayLike) -> NDArray[np.float64]:
    """Return ``H(q) / ln E``: 0 when one expert takes everything, 1 when all take the same.

    The form in which the result field ``routing_entropy`` makes layers and models of different sizes comparable; the
    entropy itself is that of Bandarkar et al., arXiv 2510.04694.

    Args:
        q: Expert importance, shape ``[..., E]``, each row summing to 1.

    Returns:
        Shape ``[...]``, in ``[0, 1]``.

    Raises:
        ValueError: ``q`` is not a distribution over at least two experts.
    """
    return np.asarray(entropy(q) / np.log(np.shape(q)[-1]))
