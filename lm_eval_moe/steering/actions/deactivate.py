"""``deactivate``: push the targeted experts to the bottom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.steering.actions._base import ActionTargets, SwitchAction, min_logit

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Deactivate"]


@dataclass(frozen=True)
class Deactivate(SwitchAction):
    """``min(z) - |ε|``, ``ε ~ N(0, 1e-6)`` (arXiv 2510.04694): selected only if fewer than K other experts remain."""

    name = "deactivate"
    needs_noise = True
    guards_by = "ban"

    def edit(self, logits: Tensor, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return the smallest logit less noise, for every target."""
        assert targets.noise is not None
        return min_logit(z, targets.masked) - targets.noise.abs()
