"""Llama 4: the router returns scores over all experts, and the experts get inputs already scaled by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_moe.routers.blocks import RoutedBlock

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Llama4Block"]


class Llama4Block(RoutedBlock):
    """Every expert is computed for every token; the score of an expert that is not selected is zero."""

    class_names = ("Llama4TextMoe",)
    hands_on_selection = False

    @classmethod
    def of(cls, block: Any, name: str) -> Llama4Block:
        """Return the parts of a block."""
        router = block.router
        return cls(router=router, owner=router, experts=block.experts, num_experts=router.num_experts)

    def selection_returned(self, output: Any, top_k: int) -> tuple[Tensor, Tensor]:
        """Return the K experts with the largest scores, and these scores."""
        weights, indices = output[0].topk(top_k, dim=-1)
        return indices, weights
