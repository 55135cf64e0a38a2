"""Inkling 2 with loops: its middle layers run several times in one pass."""

from __future__ import annotations

from typing import Any

from lm_eval_moe.routers.blocks import RoutedBlock, looped_error

__all__ = ["Inkling2LoopBlock"]


class Inkling2LoopBlock(RoutedBlock):
    """Refused before any weights are loaded, unless its config says that the loop's layers run once."""

    class_names = ("Inkling2LoopSparseMoeBlock",)

    @classmethod
    def of(cls, block: Any, name: str) -> RoutedBlock | None:
        """Return the parts of a block of a model without a loop.

        Raises:
            UserError: The model has one.
        """
        config = block.experts.config
        if config.loop_num_passes > 1 and config.loop_layer_index_start < config.loop_layer_index_end:
            raise looped_error(config.loop_layer_index_start)
        return super().of(block, name)
