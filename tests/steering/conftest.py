"""Specs and shapes that several of the steering tests use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import SteeringPlan, parse_spec, resolve


@pytest.fixture
def qwen3() -> RoutingShape:
    """The shape of Qwen3-30B-A3B."""
    return RoutingShape(layers=tuple(range(48)), experts=128, top_k=8, depth=48)


@pytest.fixture
def deepseek() -> RoutingShape:
    """A model of six layers, the first of them dense, and eight experts."""
    return RoutingShape(layers=(1, 2, 3, 4, 5), experts=8, top_k=2, depth=6)


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """A folder with (empty) profile files: parsing a spec does not read them."""
    for name in ("gsm8k_en", "flores_en", "en", "sw", "zh"):
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "zh.json").touch()
    (tmp_path / "weights.pt").touch()
    return tmp_path


@pytest.fixture
def planned() -> Callable[..., SteeringPlan]:
    """Return a function that resolves a spec of one intervention, given as keywords, for a shape."""

    def build(shape: RoutingShape, *, seed: int = 0, **fields: Any) -> SteeringPlan:
        intervention = {"layers": "all", "action": "activate", **fields}
        return resolve(parse_spec({"version": 1, "seed": seed, "interventions": [intervention]}), shape)

    return build
