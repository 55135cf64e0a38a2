"""What steering does to router logits: one module an action.

A new action is one new module here, or in a plug-in: a frozen dataclass that derives from `Action` and has a ``name``;
see docs/extending.md.
"""

from __future__ import annotations

from lm_eval_moe.discovery import import_siblings
from lm_eval_moe.steering.actions._base import Action, ActionTargets, StrengthAction, SwitchAction, parse_action

__all__ = ["Action", "ActionTargets", "StrengthAction", "SwitchAction", "parse_action"]

import_siblings(__name__, __path__)
