"""LongCat-Flash: some of the experts that a token can be sent to compute nothing."""

from __future__ import annotations

from typing import Any

from lm_eval_moe.routers.blocks import RoutedBlock

__all__ = ["LongcatFlashBlock"]


class LongcatFlashBlock(RoutedBlock):
    """The last columns are zero-computation (identity) experts; selecting one of them selects no routed expert."""

    class_names = ("LongcatFlashMoE",)

    @classmethod
    def of(cls, block: Any, name: str) -> LongcatFlashBlock:
        """Return the parts of a block."""
        router, experts = block.router, block.experts
        return cls(
            router=router,
            owner=router.classifier,
            experts=experts,
            num_experts=experts.num_routed_experts,
            extra=experts.zero_expert_num,
        )
