"""Doge: no token has its own routing."""

from __future__ import annotations

from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.routers.blocks import RoutedBlock

__all__ = ["DogeBlock"]


class DogeBlock(RoutedBlock):
    """Refused: the model splits its router's output across the tokens of a batch instead of across the two halves of
    a token's product key, so that a token's experts depend on other tokens, of other rows and of the padding.
    """

    class_names = ("DogeCDMoE",)

    @classmethod
    def of(cls, block: Any, name: str) -> RoutedBlock:
        """Refuse the block.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"the router of {name} (DogeCDMoE) mixes the tokens of a batch, padding included: no token has its own "
            "routing that could be captured or steered",
            fix="use --model hf for this model",
        )
