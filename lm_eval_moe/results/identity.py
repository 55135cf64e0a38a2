"""The identity that a results file carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm_eval_moe.identity import Identity

__all__ = ["identity_of"]


def identity_of(results: Mapping[str, Any]) -> Identity | None:
    """Return what results depend on; None for stock lm-eval's, and for those of releases that wrote it otherwise."""
    written = (results.get("routing") or {}).get("identity")
    identity = Identity.from_dict(written) if written else Identity()
    return identity if identity.parts else None
