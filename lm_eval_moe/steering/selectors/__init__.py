"""Which experts an intervention targets: one module a selection rule.

A new rule is one new module here, or in a plug-in: a frozen dataclass that derives from `Selector`, has a ``name`` and
declares its fields with `options`; see docs/extending.md.
"""

from __future__ import annotations

from lm_eval_moe.discovery import import_siblings
from lm_eval_moe.steering.selectors._base import Choice, ComparedNumber, Option, Scope, Selector, parse_selector

__all__ = ["Choice", "ComparedNumber", "Option", "Scope", "Selector", "parse_selector"]

import_siblings(__name__, __path__)
