"""``{soft: λ}``: shift the targeted logits by a share of the token's own spread."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.steering.actions._base import ActionTargets, StrengthAction, std_logit
from lm_eval_moe.yaml_values import YamlValue

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

__all__ = ["Soft"]


@dataclass(frozen=True)
class Soft(StrengthAction):
    """``z_k + λ · std(z)``, population std over the token's E logits (arXiv 2510.04694, eq. 4); λ < 0 demotes."""

    name = "soft"

    @classmethod
    def parse(cls, field: YamlValue) -> Self:
        """Read λ; beyond ±1, where the source found it unstable, warn."""
        action = super().parse(field)
        if abs(action.strength) > 1:
            warnings.warn(
                f"{field.place.where}: a soft strength of {action.strength:g} lies outside -1 to 1, the range in which "
                "soft steering is stable (arXiv 2510.04694)",
                RoutingWarning,
                stacklevel=2,
            )
        return action

    def edit(self, logits: Tensor, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return the shifted logits."""
        return logits + self.strength * std_logit(z, targets.masked)
