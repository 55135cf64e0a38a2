"""Tests of ``vllm-moe`` run where vLLM can be imported: `make test-vllm` makes such an environment."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict

import pytest

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["test_*.py"]

# What vLLM reads when it is imported, and its workers when they start.
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return where a tiny model of a family lies; ``demo`` is the bundled one."""
    from support.on_vllm.apart import run_apart

    made: dict[str, str] = {"demo": "demo"}

    def path(name: str) -> str:
        if name not in made:
            folder = tmp_path_factory.mktemp("models") / name
            make = f"workload.make_model({name!r}, Path({str(folder)!r}))"
            code = f"from pathlib import Path; from support.on_vllm import workload; {make}"
            run_apart("-c", code)  # transformers' own classes, which vLLM changes in this process
            made[name] = str(folder)
        return made[name]

    return path


@pytest.fixture(scope="session")
def reference(model_of: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict]:  # type: ignore[type-arg]
    """Return what `hf-moe` makes of a workload under plans, by plan."""
    from support.on_vllm import workload
    from support.on_vllm.apart import LONGEST, run_apart

    def outcomes(
        name: str, work: workload.Workload, plans: Sequence[str] = (), span: str = "all"
    ) -> dict[str, workload.Outcome]:
        file = tmp_path_factory.mktemp("reference") / "outcomes.npz"
        arguments = [model_of(name), str(file), str(LONGEST - 2), span, json.dumps(asdict(work)), json.dumps(plans)]
        run_apart("-m", "support.on_vllm.workload", *arguments)
        return workload.read(file)

    return outcomes
