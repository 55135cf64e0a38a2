"""Run lm-eval with routed tasks."""

from __future__ import annotations

from lm_eval_moe.evaluation.api import simple_evaluate

__all__ = ["simple_evaluate"]
