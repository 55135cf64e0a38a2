"""``activate``: lift the targeted experts to the top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.steering.actions._base import ActionTargets, SwitchAction, max_logit

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Activate"]


@dataclass(frozen=True)
class Activate(SwitchAction):
    """``max(z) + ε``, ``ε ~ N(0, 1e-6)`` so that more than K targets tie-break at random (arXiv 2510.04694, eq. 5)."""

    name = "activate"
    needs_noise = True
    unmasks = True
    guards_by = "force"

    def edit(self, logits: Tensor, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return the largest logit plus noise, for every target."""
        assert targets.noise is not None
        return max_logit(z, targets.masked) + targets.noise
