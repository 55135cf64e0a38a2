"""Profiles of made-up routing: every token selects K experts by weights that depend on language, layer and item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lm_eval_moe import profiles
from lm_eval_moe.profiles import ProfileHeader, ProfileItem
from lm_eval_moe.shape import RoutingShape


def write_profile(
    path: Path,
    languages: Sequence[str],
    *,
    shape: RoutingShape | None = None,
    items: int = 6,
    tokens: int = 12,
    benchmark: str = "sums",
    model: str = "some/model",
    overlap: bool = False,
    seed: int = 0,
    distance: Mapping[str, float] = {},
    kin: Mapping[str, str] = {},
) -> Path:
    """Write one profile with the items of all languages; ``item-i`` is the same item in each.

    ``distance`` says how far languages are from the first, 1 where it says nothing; those of one ``kin`` are alike.
    """
    shape = shape or RoutingShape(tuple(range(8)), 16, 2, 8)
    layers, experts = len(shape.layers), shape.experts
    generator = np.random.default_rng(seed)
    common = generator.normal(size=(layers, experts))
    rows, named = [], []
    # Languages differ least in the middle of the depth.
    apart = np.abs(np.linspace(-1, 1, layers))[:, None] + 0.2
    for number, language in enumerate(languages):
        own = 0.0 if number == 0 else generator.normal(size=(layers, experts)) * apart * distance.get(language, 1.0)
        for item in range(items):
            scores = common + own + 0.1 * generator.normal(size=(layers, experts))
            noisy = scores[None] + generator.gumbel(size=(tokens, layers, experts))
            chosen = np.argsort(-noisy, axis=-1)[..., : shape.top_k]
            counts = np.zeros((layers, experts), dtype=np.int64)
            for layer in range(layers):
                np.add.at(counts[layer], chosen[:, layer].ravel(), 1)
            rows.append(counts)
            named.append(ProfileItem(benchmark, f"item-{item}", language, f"{benchmark}_{language}"))
    counts = np.stack(rows)
    importance = (counts / counts.sum(-1, keepdims=True)).astype(np.float32)
    arrays = {
        "counts": counts.astype(np.int32),
        "gate_mass": (counts / shape.top_k).astype(np.float32),
        "importance": importance,
        "tokens": np.full(len(rows), tokens, dtype=np.int64),
    }
    if overlap:
        arrays["consecutive_overlap"] = generator.uniform(0.2, 0.4, size=(len(rows), layers)).astype(np.float32)
    profiles.write_profile(path, ProfileHeader(model, shape, "prompt"), named, arrays)
    return path
