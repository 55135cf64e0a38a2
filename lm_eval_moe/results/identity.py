"""The identity that a results file carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval_moe.identity import Identity

__all__ = ["identity_of"]


def identity_of(results: Mapping[str, Any]) -> Identity | None:
    """Return what results depend on; None for stock lm-eval's, and for those of early releases."""
    written = (results.get("routing") or {}).get("identity")
    return Identity.from_dict(written) if written else None
