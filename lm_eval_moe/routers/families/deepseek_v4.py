"""DeepSeek-V4: in its first layers a table chooses the experts by token id."""

from __future__ import annotations

from typing import Any

from lm_eval_moe.routers.blocks import RoutedBlock

__all__ = ["DeepseekV4Block"]


class DeepseekV4Block(RoutedBlock):
    """Layers that choose by a hash of the token have no logits that decide: there is nothing to steer or compare."""

    class_names = ("DeepseekV4SparseMoeBlock",)

    @classmethod
    def of(cls, block: Any, name: str) -> RoutedBlock | None:
        """Return the parts of a block, None for a hash layer."""
        return None if block.is_hash else super().of(block, name)
