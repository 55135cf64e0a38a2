"""ZAYA: the router is a small network, and a token can skip the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_moe.routers.blocks import RoutedBlock

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ZayaBlock"]


class ZayaBlock(RoutedBlock):
    """The last column stands for skipping; the model then sends the token to expert 0 with weight 0."""

    class_names = ("ZayaSparseMoeBlock",)

    @classmethod
    def of(cls, block: Any, name: str) -> ZayaBlock:
        """Return the parts of a block."""
        router, experts = block.gate, block.experts
        return cls(
            router=router,
            owner=router.router_mlp.out_proj,
            experts=experts,
            num_experts=router.num_experts,
            extra=router.num_router_classes - router.num_experts,
        )

    def selection_received(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return the selection, with index E where the token skips the experts."""
        return self._without_skipped(*super().selection_received(args, kwargs))

    def selection_returned(self, output: Any, top_k: int) -> tuple[Tensor, Tensor]:
        """Return the selection, with index E where the token skips the experts."""
        return self._without_skipped(*super().selection_returned(output, top_k))

    def _without_skipped(self, indices: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        # A weight is a probability of the chosen class: it is exactly 0 only where the model has put it so.
        return indices.masked_fill(weights == 0, self.num_experts), weights
