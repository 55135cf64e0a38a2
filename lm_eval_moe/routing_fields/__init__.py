"""The result fields: one module each, which declares what its field is, needs and costs.

A new field is one new module here, or in a plug-in, that calls `register`; see docs/extending.md. Nothing here imports
torch, so that whoever reads results can ask.
"""

from __future__ import annotations

from lm_eval_moe.discovery import import_siblings
from lm_eval_moe.routing_fields._base import (
    CURVES,
    FIELDS,
    FILTER,
    Curve,
    CurveError,
    RoutingField,
    chosen_fields,
    default_fields,
    is_score,
    known,
    register,
    where_routed,
)

__all__ = [
    "CURVES",
    "FIELDS",
    "FILTER",
    "Curve",
    "CurveError",
    "RoutingField",
    "chosen_fields",
    "default_fields",
    "is_score",
    "known",
    "register",
    "where_routed",
]

import_siblings(__name__, __path__)
