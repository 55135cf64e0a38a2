"""Routing metrics: pure functions on NumPy arrays, float64 inside, the last axis always the experts."""

from __future__ import annotations

from lm_eval_moe.metrics.divergence import js_divergence, normalized_js_divergence
from lm_eval_moe.metrics.entropy import entropy, normalized_entropy
from lm_eval_moe.metrics.overlap import expert_overlap
from lm_eval_moe.metrics.routed import where_routed
from lm_eval_moe.metrics.shares import shares_of

__all__ = [
    "entropy",
    "expert_overlap",
    "js_divergence",
    "normalized_entropy",
    "normalized_js_divergence",
    "shares_of",
    "where_routed",
]
