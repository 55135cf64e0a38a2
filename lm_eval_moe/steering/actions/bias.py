"""``{bias: β}``: add a constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.steering.actions._base import ActionTargets, StrengthAction

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bias"]


@dataclass(frozen=True)
class Bias(StrengthAction):
    """``z_k + β`` (common practice)."""

    name = "bias"

    def edit(self, logits: Tensor, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return the shifted logits."""
        return logits + self.strength
