"""What a model keeps of a text, by the name that its code has for it.

Transformers calls it ``cache`` from 5.24 on and warns of ``past_key_values``, which older versions know alone.
"""

from __future__ import annotations

import inspect
from functools import cache as remembered
from typing import Any

from transformers import GenerationMixin

from lm_eval_moe.backends.hf.uncompiled import generating_module

__all__ = ["NAMES", "generating_from", "going_on_from", "kept_in"]

NAMES = ("cache", "past_key_values")
"""Newest first."""


def going_on_from(model: Any, cache: Any) -> dict[str, Any]:
    """Return the argument by which a call of the model continues from a cache."""
    return {_name(type(generating_module(model)).forward): cache}


def generating_from(cache: Any) -> dict[str, Any]:
    """Return the argument by which ``generate`` continues from a cache."""
    return {_name(GenerationMixin.prepare_inputs_for_generation): cache}


def kept_in(output: Any) -> Any:
    """Return the cache in what a call of a model, or of ``generate``, returned."""
    return next((getattr(output, name) for name in NAMES if hasattr(output, name)), None)


@remembered
def _name(function: Any) -> str:
    return next((name for name in NAMES if name in inspect.signature(function).parameters), NAMES[-1])
