"""Prompt templates are compiled once, and not for every document as lm-eval 0.4 does; 0.5 keeps what it compiles."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

from lm_eval import utils

from lm_eval_moe.replacing import replaced

__all__ = ["templates_compiled_once"]


def templates_compiled_once() -> AbstractContextManager[None]:
    """Keep what lm-eval compiles of templates inside the ``with`` block; what they render is the same."""
    env = getattr(utils, "env", None)
    return nullcontext() if env is None else replaced(env, "from_string", lru_cache(maxsize=1024)(env.from_string))
