"""Parity in vLLM's other modes, each in a process of its own: parallel stages and tensors, its second runner."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from support.on_vllm import workload
from support.on_vllm.apart import run_apart
from support.on_vllm.workload import Workload
from support.paths import TESTS

PLANS = ("none", "activate", "mixed")
WORK = Workload(answers=8, texts=1, longest=40, until=tuple(f"w{number}" for number in range(10, 29)), step=2)
TRITON = os.environ.get("VLLM_TESTS_TRITON")
"""A folder with Triton, which the second runner needs, and which must not be installed beside vLLM's CPU build."""


@pytest.fixture(scope="module")
def expected(model_of: Callable[[str], str], reference: Callable[..., dict], tmp_path_factory: Any) -> Path:
    file: Path = tmp_path_factory.mktemp("expected") / "outcomes.npz"
    workload.saved(reference("qwen3_moe", WORK, PLANS), file)
    return file


def checked(pretrained: str, expected: Path, settings: dict[str, Any], **environment: str) -> dict[str, Any]:
    """Run the comparison; what its workers counted."""
    given = (pretrained, json.dumps(settings), json.dumps(asdict(WORK)), str(expected), json.dumps(PLANS))
    printed = run_apart("-m", "support.on_vllm.parity", *given, **environment)
    counted: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return counted


@pytest.mark.parametrize(
    ("settings", "workers", "environment"),
    [
        ({"tensor_parallel_size": 2}, 2, {}),
        ({"pipeline_parallel_size": 2}, 2, {}),
        ({}, 1, {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}),  # stop strings are found between two steps
    ],
    ids=["tensors", "stages", "one process"],
)
def test_parity(
    settings: dict[str, Any], workers: int, environment: dict[str, str], model_of: Callable[[str], str], expected: Path
) -> None:
    found = checked(model_of("qwen3_moe"), expected, {"enforce_eager": True, **settings}, **environment)
    assert found["workers"] == workers


@pytest.mark.skipif(not TRITON, reason="VLLM_TESTS_TRITON names no folder with Triton")
def test_parity_on_the_second_runner(model_of: Callable[[str], str], expected: Path) -> None:
    settings = {"enforce_eager": True, "max_num_batched_tokens": 24, "block_size": 32, "num_gpu_blocks_override": 9}
    environment = {"VLLM_USE_V2_MODEL_RUNNER": "1", "TRITON_INTERPRET": "1"}
    path = os.pathsep.join([str(TRITON), str(TESTS)])
    found = checked(model_of("qwen3_moe"), expected, settings, PYTHONPATH=path, **environment)
    assert found["v2"]
