"""Each known way to be unsteered, unseen or attributed to another request: it is made to happen, and is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.on_vllm.engines import EAGER, closing, engine
from support.on_vllm.workload import Workload

from lm_eval_moe.backends.vllm import refusals
from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.recording import AttributionError

WORK = Workload(choices=10, answers=0, texts=0)
STOPS = Workload(choices=0, texts=0, longest=60, until=tuple(f"w{number}" for number in range(10, 60)))


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, model_of: Callable[[str], str]) -> Callable[..., Any]:
    """Return an engine whose worker has a fault."""

    def start(name: str, **settings: Any) -> Any:
        monkeypatch.setattr(refusals, "WORKER", f"support.on_vllm.broken_workers.{name}")
        return engine(model_of("qwen3_moe"), **{**EAGER, **settings})

    return start


def test_rows_in_another_order(broken: Callable[..., Any]) -> None:
    with (
        closing(broken("ReversedOrder")) as lm,
        pytest.raises(AttributionError, match="not where vLLM's scheduler says"),
    ):
        lm.loglikelihood(WORK.requests()["loglikelihood"])


def test_a_router_that_is_not_reached(broken: Callable[..., Any]) -> None:
    with pytest.raises(
        RoutingBypassedError, match="in layer 0 of vLLM's model, the router runs without being observed"
    ):
        broken("Bypassed")


def test_routers_that_are_wrapped_after_compilation(
    broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))  # without what was compiled with the routers wrapped
    with pytest.raises(RoutingBypassedError, match=r"in layers 0-3 (?s:.)*enforce_eager=True") as caught:
        broken("TooLate", enforce_eager=False)
    assert caught.value.exit_code == 2


def test_experts_that_receive_another_selection(broken: Callable[..., Any]) -> None:
    with pytest.raises(RoutingBypassedError, match="the experts receive a different selection"):
        broken("Unsteered")


def test_a_fault_in_the_worker_is_one_error_and_the_engine_goes_on(broken: Callable[..., Any]) -> None:
    with closing(broken("Faulty")) as lm:
        requests = WORK.requests()["loglikelihood"]
        with pytest.raises(AttributionError, match="broken on purpose"):
            lm.loglikelihood(requests)
        short = [request for request in requests if len(request.args[0].split()) < 40]
        assert len(lm.loglikelihood(short)) == len(short)


def test_tokens_beyond_the_end_that_are_not_held_back(broken: Callable[..., Any]) -> None:
    with closing(broken("HoldsNothingBack")) as lm, pytest.raises(UserError, match="ended 1 tokens before"):
        lm.generate_until(STOPS.requests()["generate_until"])


def test_the_compile_cache_of_a_plain_model(
    model_of: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """Compiled code without operators is not taken for ours, since the settings name us: the check passes."""
    from vllm import LLM, EngineArgs

    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path))
    path, usual = model_of("qwen3_moe"), {"dtype": "float32", "max_model_len": 256, "gpu_memory_utilization": 0.3}
    ours = refusals.with_routing(usual)
    plain, routed = (EngineArgs(path, **own).create_engine_config().compute_hash() for own in (usual, ours))
    assert plain != routed
    compiled = LLM(path, max_num_seqs=16, **usual)
    compiled.llm_engine.engine_core.shutdown()
    assert any(tmp_path.rglob("*"))
    with closing(engine(path)) as lm:
        assert len(lm.loglikelihood(WORK.requests()["loglikelihood"])) == 20


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("data_parallel_size", 2),
        ("speculative_config", {"method": "ngram"}),
        ("enable_eplb", True),
        ("enable_dbo", True),
        ("worker_cls", "vllm.v1.worker.gpu_worker.Worker"),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(
    argument: str, value: object, model_of: Callable[[str], str]
) -> None:
    with pytest.raises(UserError, match=argument):
        engine(model_of("qwen3_moe"), **{argument: value})
