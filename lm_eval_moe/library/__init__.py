"""Routing and steering for whoever holds a model: two ``with`` blocks around anything that runs it."""

from __future__ import annotations

from lm_eval_moe.library.blocks import capture, steer
from lm_eval_moe.library.routing import Routing

__all__ = ["Routing", "capture", "steer"]
