"""``deactivate_log_prob``: push the targeted experts just below the bottom, as SteerMoE does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.steering.actions._base import ActionTargets, SwitchAction, min_logit

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DeactivateLogProb"]


@dataclass(frozen=True)
class DeactivateLogProb(SwitchAction):
    """``min(log_softmax(z)) - 0.01`` for every target (SteerMoE, arXiv 2509.09660).

    Log-probabilities are logits less one number a token, which no softmax sees: it is left out.
    """

    name = "deactivate_log_prob"
    guards_by = "ban"

    def edit(self, logits: Tensor, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return the smallest logit less a hundredth, for every target."""
        return (min_logit(z, targets.masked) - 0.01).expand_as(logits)
