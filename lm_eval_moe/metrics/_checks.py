"""What the metrics refuse: one place, so that every metric refuses the same inputs in the same words."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["SUM_TOLERANCE", "as_distributions", "as_expert_values", "check_same_experts"]

SUM_TOLERANCE = 1e-3
"""How far a row may be from summing to 1: room for float32 accumulation over long texts, none for forgotten scaling."""


def as_expert_values(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return non-negative finite values over experts as float64.

    Args:
        values: Array of shape ``[..., E]``.
        name: What the argument is called, for the message.

    Raises:
        ValueError: Fewer than two experts, a negative or non-finite value, or a row of zeros (no tokens were counted).
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] < 2:
        raise ValueError(f"{name} has shape {array.shape}: the last axis holds the experts, at least 2 of them")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values")
    if (array < 0).any():
        raise ValueError(f"{name} holds negative values (smallest {array.min():g})")
    if not array.any(axis=-1).all():
        raise ValueError(f"{name} has a row of zeros: no tokens were counted there")
    return array


def as_distributions(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return probability distributions over experts as float64, each row scaled to sum to exactly 1.

    Args:
        values: Array of shape ``[..., E]`` whose rows sum to 1 within `SUM_TOLERANCE`.
        name: What the argument is called, for the message.

    Raises:
        ValueError: As `as_expert_values`, or a row does not sum to 1.
    """
    array = as_expert_values(values, name)
    total = array.sum(axis=-1, keepdims=True)
    off = np.abs(total - 1)
    if (off > SUM_TOLERANCE).any():
        worst = float(total.flat[int(off.argmax())])
        raise ValueError(f"{name} is not a distribution over the last axis: a row sums to {worst:g}, not to 1")
    return np.asarray(array / total)


def check_same_experts(p: NDArray[np.float64], q: NDArray[np.float64], names: tuple[str, str] = ("p", "q")) -> None:
    """Raise ValueError unless both have as many experts and leading axes that broadcast."""
    shapes = f"{names[0]} has shape {p.shape}, {names[1]} has shape {q.shape}"
    if p.shape[-1] != q.shape[-1]:
        raise ValueError(f"{shapes}: the last axes, the experts, differ in length")
    try:
        np.broadcast_shapes(p.shape, q.shape)
    except ValueError as error:
        raise ValueError(f"{shapes}: the leading axes do not broadcast") from error
