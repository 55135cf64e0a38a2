"""Steering: the YAML schema, target selection, actions, and the resolved plan.

Nothing here needs torch until an action is applied or noise is drawn, so a file is checked before anything heavy loads.
"""

from __future__ import annotations

from lm_eval_moe.profiles import ProfileSource, ProfileStore
from lm_eval_moe.steering.actions import Action, ActionTargets
from lm_eval_moe.steering.language_filter import LanguageFilter
from lm_eval_moe.steering.plan import LayerTargets, SteeringPlan
from lm_eval_moe.steering.resolution import explain, resolve
from lm_eval_moe.steering.selectors import Choice
from lm_eval_moe.steering.spec import SteeringSpec, load_spec, parse_spec

__all__ = [
    "Action",
    "ActionTargets",
    "Choice",
    "LanguageFilter",
    "LayerTargets",
    "ProfileSource",
    "ProfileStore",
    "SteeringPlan",
    "SteeringSpec",
    "explain",
    "load_spec",
    "parse_spec",
    "resolve",
]
