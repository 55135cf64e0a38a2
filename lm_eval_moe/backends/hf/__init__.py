"""``hf-moe``: mixture-of-experts models of transformers, in this process."""

from __future__ import annotations

from lm_eval_moe.backends.registry import register_backend

__all__: list[str] = []

register_backend("hf-moe", f"{__name__}.model:HFMoE")
