"""Engines whose routers are not reached are refused at the start, with what makes them work."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="runs in an environment with vLLM")

from workload import make_model

from lm_eval_moe.backends.vllm import refusals
from lm_eval_moe.backends.vllm.model import VLLMMoE
from lm_eval_moe.errors import RoutingBypassedError


@pytest.mark.parametrize(
    ("worker", "eager", "message"),
    [
        ("Unreached", True, r"in layer 1 of vLLM's model, the router runs without being heard"),
        (
            "TooLate",
            False,
            r"in layers 0-3 of vLLM's model, the router runs without being heard(?s:.)*enforce_eager",
        ),
    ],
)
def test_a_router_that_is_run_past_ends_the_start_in_one_message(
    worker: str, eager: bool, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))  # nothing that was compiled with the routers wrapped
    monkeypatch.setattr(refusals, "WORKER", f"broken_workers.{worker}")
    folder = make_model("qwen3_moe", tmp_path / "model")
    with pytest.raises(RoutingBypassedError, match=message) as caught:
        VLLMMoE(
            pretrained=str(folder),
            dtype="float32",
            max_model_len=256,
            max_num_seqs=16,
            gpu_memory_utilization=0.3,
            enforce_eager=eager,
        )
    assert caught.value.exit_code == 2
