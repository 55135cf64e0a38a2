"""Inkling: the router scores the shared experts, too."""

from __future__ import annotations

from typing import Any

from lm_eval_moe.routers.blocks import RoutedBlock

__all__ = ["InklingBlock"]


class InklingBlock(RoutedBlock):
    """The last columns weigh the shared experts, which are always on: they are no choice."""

    class_names = ("InklingMoE",)

    @classmethod
    def of(cls, block: Any, name: str) -> InklingBlock:
        """Return the parts of a block."""
        gate, experts = block.gate, block.experts
        return cls(router=gate, owner=gate, experts=experts, num_experts=gate.num_experts, extra=gate.n_shared_experts)
