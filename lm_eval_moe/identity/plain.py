"""Settings as JSON holds them."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["plain"]


def plain(value: Any) -> Any:
    """Return what JSON can hold, the same in every process."""
    return json.loads(json.dumps(value, default=_text, sort_keys=True))


def _text(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)
