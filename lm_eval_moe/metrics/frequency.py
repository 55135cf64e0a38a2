"""How often each expert is selected."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lm_eval_moe.metrics._checks import as_expert_values

__all__ = ["activation_frequency"]


def activation_frequency(counts: ArrayLike, tokens: ArrayLike) -> NDArray[np.float64]:
    """Return ``f_k = a_k / T``, the share of tokens for which expert k was selected.

    Bandarkar et al., arXiv 2510.04694, eq. 3; Chen et al., arXiv 2601.14050. A row sums to the model's top-k.

    Args:
        counts: Activation counts ``a``, shape ``[..., E]``.
        tokens: Tokens counted, ``T``: one number, or an array that broadcasts to the leading axes of ``counts``.

    Returns:
        Shape ``[..., E]``, in ``[0, 1]``.

    Raises:
        ValueError: Negative, non-finite or all-zero counts, no tokens, more activations than tokens, or shapes that
            do not fit.
    """
    a = as_expert_values(counts, "counts")
    total = np.asarray(tokens, dtype=np.float64)
    if not np.isfinite(total).all() or (total <= 0).any():
        raise ValueError(f"tokens must be positive, got {total.tolist()}")
    try:
        total = np.broadcast_to(total, a.shape[:-1])
    except ValueError as error:
        raise ValueError(
            f"tokens has shape {total.shape}, which does not broadcast to {a.shape[:-1]}, the leading axes of counts"
        ) from error
    if (a > total[..., None]).any():
        raise ValueError("counts holds more activations of an expert than there are tokens: one each at most")
    return np.asarray(a / total[..., None])
