"""However vLLM schedules requests, their records are those of the same tokens in one batch of transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.on_vllm.engines import EAGER, assert_alike, assert_parity, closing, engine
from support.on_vllm.workload import Workload, outcome, plans_for

PLANS = ("none", "activate", "soft", "mixed")
LONG = Workload(choices=12, answers=12, texts=1, longest=40, until=("zzz",), prompts=15, step=5, seed=3)
SHARED = Workload(choices=4, answers=16, texts=0, shared=70, longest=12, until=("zzz",), prompts=6, step=1, seed=4)
STOPS = Workload(
    choices=0, answers=12, texts=0, longest=60, until=tuple(f"w{number}" for number in range(10, 60)), step=2, seed=5
)


@pytest.fixture(scope="module")
def lm(model_of: Callable[[str], str]) -> Iterator[Any]:
    """Prefill in chunks of 24 tokens, and blocks for about five requests at once."""
    settings = {"max_num_batched_tokens": 24, "block_size": 32, "num_gpu_blocks_override": 24, "capture": "all"}
    with closing(engine(model_of("qwen3_moe"), **EAGER, **settings)) as model:
        yield model


def counted(lm: Any) -> dict[str, int]:
    """How often requests were preempted, and how many tokens were found in the cache, since the last settings."""
    [own] = lm.model.collective_rpc("routing_counted")
    return own


def test_chunked_prefill_and_preemption(lm: Any, reference: Callable[..., dict]) -> None:
    expected = reference("qwen3_moe", LONG, PLANS)
    for name in PLANS:
        assert_alike(outcome(lm, LONG, plans_for(lm.routing_shape)[name]), expected[name], LONG)
        assert counted(lm)["preempted"] > 0, name


def test_blocks_that_are_found_in_the_prefix_cache(lm: Any, reference: Callable[..., dict]) -> None:
    expected = reference("qwen3_moe", SHARED, PLANS)
    for name in PLANS:
        assert_alike(outcome(lm, SHARED, plans_for(lm.routing_shape)[name]), expected[name], SHARED)
        assert counted(lm)["found"] > 0, name
    # The blocks of another plan, or of a time when nothing was recorded, are not found.
    assert_parity(lm, SHARED, expected, ("none", "activate", "none"))


def test_answers_that_end_at_a_stop_string(lm: Any, reference: Callable[..., dict]) -> None:
    """The engine runs in another process than the one that looks for stop strings: it feeds a token too many."""
    expected = reference("qwen3_moe", STOPS, ("none", "activate"))
    ended_early = [len(answer.split()) < STOPS.longest for answer in expected["none"].answers["generate_until"]]
    assert sum(ended_early) >= 6
    assert_parity(lm, STOPS, expected, ("none", "activate"))


def test_the_prompt_alone(lm: Any, reference: Callable[..., dict]) -> None:
    expected = reference("qwen3_moe", SHARED, ("none", "mixed"), "prompt")
    lm.set_capture("prompt")
    assert_parity(lm, SHARED, expected)
    lm.set_capture("all")
