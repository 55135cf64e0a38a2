"""``{proportional: λ}``: shift the targeted logits in proportion to their size and their steering coefficient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.steering.actions._base import ActionTargets, StrengthAction

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Proportional"]


@dataclass(frozen=True)
class Proportional(StrengthAction):
    """``z_k + λ · s_k · |z_k|`` (arXiv 2601.14050; λ of about 0.02 to 0.035); s_k is 1 where the targets carry none."""

    name = "proportional"
    weighs = True

    def edit(self, logits: Tensor, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return the shifted logits; those with a coefficient of zero keep every bit."""
        scale = self.strength * targets.coefficients
        return logits.where(scale == 0, logits + scale * logits.abs())
