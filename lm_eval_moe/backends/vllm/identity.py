"""The identity of an engine: everything that its answers and their routing depend on besides the requests."""

from __future__ import annotations

from typing import Any

from lm_eval_moe.backends.vllm.engine import vllm_version

__all__ = ["model_parts"]


def model_parts(lm: Any) -> dict[str, Any]:
    """Return the parts ``model``, ``computation``, ``versions`` and, of ``prompts``, what reads text.

    Args:
        lm: The model, a `VLLMMoE`.
    """
    return {"model.source": lm.model_id, "versions.vllm": vllm_version()}
