"""A listener that only looks: the base of those that want to see one thing and change little or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe.routers.intercept import RouterListener

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SelectionListener"]


class SelectionListener(RouterListener):
    """Changes nothing; keeps, by router position, the selection of the last call."""

    def __init__(self) -> None:
        self.selections: dict[int, tuple[Tensor, Tensor]] = {}
        """Indices and combine weights, ``[N, K]`` each."""

    def selected(self, position: int, indices: Tensor, weights: Tensor) -> None:
        """Keep the selection."""
        self.selections[position] = (indices, weights)
