"""A listener that only looks: the base of those that want to see one thing and change little or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Looking"]


class Looking:
    """A `RouterListener` that changes nothing; it keeps, by router position, the selection of the last call."""

    def __init__(self) -> None:
        self.selections: dict[int, tuple[Tensor, Tensor]] = {}
        """Indices and combine weights, ``[N, K]`` each."""

    def route(self, position: int, logits: Tensor) -> Tensor:
        """Return the logits as they are."""
        return logits

    def selected(self, position: int, indices: Tensor, weights: Tensor) -> None:
        """Keep the selection."""
        self.selections[position] = (indices, weights)

    def scored(self, position: int, how: str | None) -> None:
        """Take no notice."""

    def guarded(self, position: int, logits: Tensor) -> None:
        """Guard nothing."""
        return

    def compares(self, position: int) -> bool:
        """Ask for no second selection."""
        return False

    def unchanged(self, position: int, indices: Tensor) -> None:
        """Fail: a second selection is never asked for."""
        raise AssertionError("never asked for")
