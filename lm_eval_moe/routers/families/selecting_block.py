"""DBRX, and Jamba as older transformers build it: the router gives logits, the block selects."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lm_eval_moe.routers.blocks import RoutedBlock

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SelectingBlock"]


class SelectingBlock(RoutedBlock):
    """Softmax and top-k run in the block's ``route_tokens_to_experts``, after the router's call."""

    class_names = ("DbrxFFN", "JambaSparseMoeBlock")
    guards_logits: ClassVar[bool] = True

    @classmethod
    def of(cls, block: Any, name: str) -> RoutedBlock | None:
        """Return the parts of a block."""
        select = getattr(block, "route_tokens_to_experts", None)
        if select is None:  # Jamba since transformers 5.20 has a router like most
            return RoutedBlock.of(block, name)
        routed = super().of(block, name)
        if isinstance(routed, SelectingBlock):
            routed._select = select
        return routed

    _select: Any

    def selection_returned(self, output: Any, top_k: int) -> tuple[Tensor, Tensor]:
        """Return what the block selects by these logits."""
        # Jamba's method takes the hidden states, too, but only for their type.
        arguments = [output] * len(inspect.signature(self._select).parameters)
        first, second = self._select(*arguments)
        return (second, first) if torch.is_floating_point(first) else (first, second)
