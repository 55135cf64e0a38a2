"""JetMoe: the router returns tokens sorted by expert; the router of the attention's experts is left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lm_eval_moe.routers.blocks import RoutedBlock

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["JetMoeBlock"]


class JetMoeBlock(RoutedBlock):
    """The feed-forward experts of a layer.

    JetMoe also mixes experts of the attention (``JetMoeMoA``), with a second router a layer. Layers are named by
    their index everywhere here, and the literature is about feed-forward experts: only these are captured and steered.
    """

    class_names = ("JetMoeMoE",)
    guards_logits = True
    hands_on_selection = False

    @classmethod
    def of(cls, block: Any, name: str) -> JetMoeBlock:
        """Return the parts of a block."""
        router, experts = block.router, block.input_linear
        return cls(router=router, owner=router.layer, experts=experts, num_experts=router.num_experts)

    def selection_returned(self, output: Any, top_k: int) -> tuple[Tensor, Tensor]:
        """Undo the sorting: slot ``s`` of the ``N x K`` slots is at place ``p`` where ``order[p] = s``."""
        order, _, gates, expert_size, _ = output
        sizes = torch.as_tensor(expert_size, device=order.device)
        sorted_experts = torch.arange(self.num_experts, device=order.device).repeat_interleave(sizes)
        indices = torch.empty_like(order).scatter_(0, order, sorted_experts)
        weights = torch.empty_like(gates).scatter_(0, order, gates)
        return indices.view(-1, top_k), weights.view(-1, top_k)
