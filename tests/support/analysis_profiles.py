"""Profiles written for the tests of analyses, from arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_moe.profiles import ProfileHeader, ProfileItem, write_profile
from lm_eval_moe.shape import RoutingShape

SHAPE = RoutingShape(layers=tuple(range(1, 12)), experts=6, top_k=2, depth=12)
"""A dense first layer; early 1, middle 2-8, late 9-11."""


def drawn(seed: int, items: int, shape: RoutingShape = SHAPE, sharpness: float = 1.0) -> Any:
    """Importance ``[items, L, E]``, drawn at random."""
    generator = np.random.default_rng(seed)
    return generator.dirichlet([1 / sharpness] * shape.experts, (items, len(shape.layers)))


def write_profile_of(
    folder: Path,
    language: str,
    importance: Any,
    *,
    names: Sequence[str] | None = None,
    counts: Any = None,
    tokens: Any = None,
    extra: dict[str, Any] | None = None,
    shape: RoutingShape = SHAPE,
    model: str = "a/model",
    span: str = "prompt",
    steering: str | None = None,
    benchmark: str = "news",
    file: str | None = None,
    task: str | None = None,
) -> Path:
    """Write a profile of one language; without counts they follow the importance."""
    importance = np.asarray(importance, dtype=np.float32)
    number = len(importance)
    length = np.full(number, 1000, dtype=np.int64) if tokens is None else np.asarray(tokens, dtype=np.int64)
    if counts is None:
        counts = np.minimum(importance * shape.top_k, 1.0) * length[:, None, None]
    keys = names if names is not None else [f"n{at}" for at in range(number)]
    items = [ProfileItem(benchmark, key, language, task or f"{benchmark}_{language}") for key in keys]
    arrays = {
        "counts": np.asarray(counts).astype(np.int32),
        "gate_mass": importance,
        "importance": importance,
        "tokens": length,
        **{name: np.asarray(values, dtype=np.float32) for name, values in (extra or {}).items()},
    }
    path = folder / (file or f"{language}.safetensors")
    write_profile(path, ProfileHeader(model, shape, span, steering), items, arrays)
    return path
