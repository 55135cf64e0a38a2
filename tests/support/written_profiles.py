"""Profiles written for tests: per-item counts as nested lists, items by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_moe.profiles import ProfileHeader, ProfileItem
from lm_eval_moe.recording import RoutingRecord
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import Choice, SteeringSpec, explain, parse_spec, resolve
from support.profile_records import write_records

SMALL = RoutingShape(layers=(1, 2), experts=4, top_k=2, depth=3)
"""A model with a dense first layer, two MoE layers, four experts, two of them selected."""

Row = tuple[str, int, Sequence[Sequence[int]]]
"""An item's key, its tokens and its counts per layer and expert."""


def record(tokens: int, counts: Any) -> RoutingRecord:
    """A record that holds what profiles hold."""
    array = np.array(counts, dtype=np.int32)
    none = np.zeros(len(array), dtype=np.int64)
    mass = array.astype(np.float32)
    importance = mass / np.maximum(mass.sum(-1, keepdims=True), 1)
    return RoutingRecord(tokens, array, mass, importance, None, None, none, none, none)


def write(
    path: Path,
    rows: Sequence[Row],
    *,
    language: str | Sequence[str] = "en",
    benchmark: str = "bench",
    shape: RoutingShape = SMALL,
    model: str = "a/model",
    span: str = "prompt",
    steering: str | None = None,
) -> Path:
    """Write a profile with these items."""
    languages = [language] * len(rows) if isinstance(language, str) else list(language)
    items = [
        ProfileItem(benchmark, key, each, f"{benchmark}_{each}")
        for (key, _, _), each in zip(rows, languages, strict=True)
    ]
    header = ProfileHeader(model, shape, span, steering)
    write_records(path, header, items, [record(tokens, counts) for _, tokens, counts in rows])
    return path


def write_dump(path: Path, tokens: int, counts: Sequence[Sequence[int]], shape: RoutingShape = SMALL) -> Path:
    """Write counts as the code of arXiv 2601.14050 does, without the experts that were never active."""
    dump = {
        str(layer): {
            **{
                str(expert): {"activation_tokens": count, "gate_values_sum": count * 0.5}
                for expert, count in enumerate(per_expert)
                if count
            },
            "total_tokens": tokens,
        }
        for layer, per_expert in zip(shape.layers, counts, strict=True)
    }
    path.write_text(json.dumps(dump))
    return path


def spec_of(rule: dict[str, Any], folder: Path, layers: Any = "all", seed: int = 0) -> SteeringSpec:
    """A spec of one intervention, whose profiles lie in a folder."""
    entry = {"layers": layers, "experts": rule, "action": {"proportional": 0.1}}
    return parse_spec({"version": 1, "seed": seed, "interventions": [entry]}, source="steer.yaml", base_dir=folder)


def selected(
    rule: dict[str, Any], folder: Path, shape: RoutingShape = SMALL, layers: Any = "all"
) -> dict[int, dict[int, float]]:
    """What a rule selects in the plan: layer, expert, coefficient."""
    targets = resolve(spec_of(rule, folder, layers), shape).interventions[0].targets
    return {layer: dict(zip(each.experts, each.coefficients, strict=True)) for layer, each in targets.items()}


def explained(rule: dict[str, Any], folder: Path, shape: RoutingShape = SMALL, layers: Any = "all") -> list[Choice]:
    """The reasons for what a rule selects."""
    return explain(spec_of(rule, folder, layers), shape)[0]
