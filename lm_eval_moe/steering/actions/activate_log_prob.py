"""``activate_log_prob``: lift the targeted experts just above the top, as SteerMoE does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.steering.actions._base import ActionTargets, SwitchAction, max_logit

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ActivateLogProb"]


@dataclass(frozen=True)
class ActivateLogProb(SwitchAction):
    """``max(log_softmax(z)) + 0.01`` for every target (SteerMoE, arXiv 2509.09660).

    Log-probabilities are logits less one number a token, which no softmax sees: it is left out.
    """

    name = "activate_log_prob"
    unmasks = True
    guards_by = "force"

    def edit(self, logits: Tensor, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return the largest logit and a hundredth, for every target."""
        return (max_logit(z, targets.masked) + 0.01).expand_as(logits)
