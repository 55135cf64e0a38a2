"""Do two sequences use the same experts most?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lm_eval_moe.metrics._checks import as_expert_values, check_same_experts

__all__ = ["expert_overlap"]


def expert_overlap(
    f_p: ArrayLike, f_q: ArrayLike, top: int, tie_p: ArrayLike | None = None, tie_q: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the Jaccard overlap ``|A & B| / |A | B|`` of the ``top`` most activated experts of two sequences.

    Expert-set overlap as in Bandarkar et al., arXiv 2510.04694. Short sequences have many equal counts, so ties are
    broken by a second array where one is given (gate mass or importance), and then by the lowest expert index. An
    expert that was never selected belongs to no set, even where fewer than ``top`` were (our choice: filling up with
    idle experts would count them as shared).

    Args:
        f_p: Activation frequencies, or counts, of one sequence: shape ``[..., E]``.
        f_q: The same for the other; leading axes broadcast against those of ``f_p``.
        top: How many experts make a set, 1 to E.
        tie_p: Tie-breaker for ``f_p``, of its shape, larger first.
        tie_q: Tie-breaker for ``f_q``, of its shape, larger first.

    Returns:
        Shape ``[...]``, in ``[0, 1]``.

    Raises:
        ValueError: Negative, non-finite or all-zero frequencies, shapes that do not fit, or ``top`` out of range.
    """
    p, q = as_expert_values(f_p, "f_p"), as_expert_values(f_q, "f_q")
    check_same_experts(p, q, ("f_p", "f_q"))
    if isinstance(top, bool) or not isinstance(top, (int, np.integer)) or not 1 <= top <= p.shape[-1]:
        raise ValueError(f"top must be a whole number from 1 to {p.shape[-1]}, the number of experts, got {top!r}")
    in_p = _top_experts(p, int(top), tie_p, "tie_p")
    in_q = _top_experts(q, int(top), tie_q, "tie_q")
    shared = np.sum(in_p & in_q, axis=-1)
    return np.asarray(shared / np.sum(in_p | in_q, axis=-1))


def _top_experts(f: NDArray[np.float64], top: int, tie: ArrayLike | None, name: str) -> NDArray[np.bool_]:
    """Mark the ``top`` largest of each row that are above zero."""
    if tie is None:
        second = np.zeros_like(f)
    else:
        second = np.asarray(tie, dtype=np.float64)
        if second.shape != f.shape:
            raise ValueError(f"{name} has shape {second.shape}, the frequencies have {f.shape}")
        if not np.isfinite(second).all():
            raise ValueError(f"{name} holds NaN or infinite values")
    order = np.lexsort((-second, -f), axis=-1)  # stable: what is still equal stays in the order of the index
    mask = np.zeros(f.shape, dtype=bool)
    np.put_along_axis(mask, order[..., :top], True, axis=-1)
    return mask & (f > 0)
