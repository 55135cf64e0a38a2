"""``vllm-moe``: mixture-of-experts models on vLLM, compiled and batched continuously."""

from __future__ import annotations

from lm_eval_moe.backends.registry import register_backend

__all__: list[str] = []

register_backend("vllm-moe", f"{__name__}.model:VLLMMoE")
