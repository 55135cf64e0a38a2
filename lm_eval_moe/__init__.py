"""Routing capture, router steering and routing-alignment metrics for MoE models in lm-evaluation-harness."""

from __future__ import annotations

from lm_eval_moe._version import __version__

__all__ = ["__version__"]
