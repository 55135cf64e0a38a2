"""Which experts an intervention targets: one module a selection rule.

A new rule is one new module here: a frozen dataclass that derives from :class:`Selector` and has a ``name``.
"""

from __future__ import annotations

from lm_eval_moe.discovery import import_siblings
from lm_eval_moe.steering.selectors._base import Choice, Scope, Selection, Selector, parse_selector

__all__ = ["Choice", "Scope", "Selection", "Selector", "parse_selector"]

import_siblings(__name__, __path__)
