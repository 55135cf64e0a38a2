"""Whether requests share contexts on a loaded model."""

from __future__ import annotations

import logging
from typing import Any

from lm_eval_moe.backends.hf.contexts import ReuseProof
from lm_eval_moe.backends.hf.listening import Listening

__all__ = ["Sharing"]

logger = logging.getLogger(__name__)

_MANY = 1 << 10
"""Plans under which requests run at once: what bounds them is the room that a pass and their records have."""


class Sharing(Listening):
    """The part of `HFMoE` that knows whether its requests share contexts.

    Attributes:
        reuse: ``auto``, or ``off``: every request is computed by itself.
    """

    reuse: str

    def _begin_sharing(self) -> None:
        self._proof = ReuseProof(refused=_why_alone(self.model))
        if self.reuse == "auto" and self._proof.refused is not None:
            logger.info("contexts are not shared between requests: %s", self._proof.refused)

    @property
    def plans_at_once(self) -> int:  # type: ignore[override]
        """Under how many plans requests run at once: as many as there are, where they share contexts."""
        return _MANY if self._shares else 1

    @property
    def _shares(self) -> bool:
        return self.reuse == "auto" and self.logits_cache and self._proof.refused is None


def _why_alone(model: Any) -> str | None:
    """Return why a model cannot be given rows that share contexts, in words; None if that has to be seen."""
    kinds = {type(module).__name__ for module in model.modules()}
    if any(kind.startswith(("FSDP", "FullyShardedDataParallel")) for kind in kinds):
        return "all its processes must run the same number of passes (FSDP)"
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        return "its adapter puts virtual tokens in front of every row"
    return None
