"""``mask``: take the targeted experts out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.steering.actions._base import ActionTargets, SwitchAction

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MASKED", "Mask", "masked_experts"]

MASKED = -1e9
"""The logit of a masked expert: finite, since infinities turn into NaN in some routers (arXiv 2601.14050's code)."""


def masked_experts(z: Tensor) -> Tensor:
    """Return which logits an earlier ``mask`` took out; bool, of ``z``'s shape."""
    return z <= MASKED / 2


@dataclass(frozen=True)
class Mask(SwitchAction):
    """``z_k = -1e9``: never selected while K other experts remain (ablation of arXiv 2601.14050).

    Later interventions leave masked experts out of their statistics, and as they are, save ``activate``.
    """

    name = "mask"
    masks = True
    guards_by = "ban"

    def edit(self, logits: Tensor, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return a large negative, finite number for every target."""
        return logits.new_full(logits.shape, MASKED)
