"""Routing capture, router steering and routing-alignment metrics for MoE models in lm-evaluation-harness.

The names below are imported when they are first used, so that importing the package stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe._version import __version__
from lm_eval_moe.discovery import imported_when_used

if TYPE_CHECKING:
    from lm_eval_moe.backends.hf.model import HFMoE
    from lm_eval_moe.evaluation import simple_evaluate
    from lm_eval_moe.library import Routing, capture, steer
    from lm_eval_moe.steering import load_spec, parse_spec, resolve

__all__ = [
    "HFMoE",
    "Routing",
    "__version__",
    "capture",
    "load_spec",
    "parse_spec",
    "resolve",
    "simple_evaluate",
    "steer",
]

_HOMES = {
    "HFMoE": "lm_eval_moe.backends.hf.model",
    "Routing": "lm_eval_moe.library",
    "capture": "lm_eval_moe.library",
    "load_spec": "lm_eval_moe.steering",
    "parse_spec": "lm_eval_moe.steering",
    "resolve": "lm_eval_moe.steering",
    "simple_evaluate": "lm_eval_moe.evaluation",
    "steer": "lm_eval_moe.library",
}

__getattr__ = imported_when_used(__name__, _HOMES)
