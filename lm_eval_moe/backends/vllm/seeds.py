"""Seeds of answers that are drawn at random, in an engine whose generators nobody here can reach."""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["seed_of"]


def seed_of(base: int, *request: Any) -> int:
    """Return a request's own seed: its answer then depends on nothing that runs next to it.

    Args:
        base: The seed of the run.
        request: What is asked, and which repeat it is; JSON-ready.

    Returns:
        A number below 2 ** 56.
    """
    text = json.dumps([base, *request], sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
