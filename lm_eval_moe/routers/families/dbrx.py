"""DBRX: the router returns logits, the block selects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_moe.routers.blocks import RoutedBlock

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["DbrxBlock"]


class DbrxBlock(RoutedBlock):
    """Softmax and top-k run in the block, after the router's call."""

    class_names = ("DbrxFFN",)
    guards_logits = True

    @classmethod
    def of(cls, block: nn.Module, name: str) -> DbrxBlock:
        """Return the parts of a block."""
        router: Any = block.router
        experts: Any = block.experts
        found = cls(router=router, owner=router.layer, experts=experts, num_experts=experts.num_experts)
        found._select = block.route_tokens_to_experts
        return found

    _select: Any

    def selection_returned(self, output: Any, top_k: int) -> tuple[Tensor, Tensor]:
        """Return what the block selects by these logits."""
        weights, indices = self._select(output)
        return indices, weights
