"""Inkling: the router scores the shared experts, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval_moe.routers.blocks import RoutedBlock

if TYPE_CHECKING:
    from torch import nn

__all__ = ["InklingBlock"]


class InklingBlock(RoutedBlock):
    """The last columns weigh the shared experts, which are always on: they are no choice."""

    class_names = ("InklingMoE",)

    @classmethod
    def of(cls, block: nn.Module, name: str) -> InklingBlock:
        """Return the parts of a block."""
        router: Any = block.gate
        experts: Any = block.experts
        return cls(
            router=router,
            owner=router,
            experts=experts,
            num_experts=router.num_experts,
            extra=router.n_shared_experts,
        )
