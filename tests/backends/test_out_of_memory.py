"""A device that runs out of memory: ``batch_size=auto`` finds what fits, and capture stays exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from lm_eval_moe import HFMoE
from lm_eval_moe.backends.cache import ResponseCache
from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.demo_model.data import evaluation_problems
from lm_eval_moe.recording import RequestKey

pytestmark = pytest.mark.long

ROWS = 5
"""Rows that fit."""


def requests(kind: str) -> list[Instance]:
    made = []
    for number, (problem, options) in enumerate(evaluation_problems()[:12]):
        prompt = problem.prompt("sw")
        arguments: list[Any] = [(prompt, f" {option}") for option in options]
        if kind == "generate_until":
            arguments = [(prompt, {"until": ["\n"], "max_gen_toks": 4})]
        made += [
            Instance(kind, doc={}, arguments=each, idx=index, metadata=("problems", number, 1))
            for index, each in enumerate(arguments)
        ]
    return made


@contextmanager
def little_memory(lm: Any) -> Iterator[list[int]]:
    """Let passes of more than `ROWS` rows fail as they do on a full device."""
    seen: list[int] = []

    def check(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = args[0] if args else kwargs["input_ids"]
        seen.append(len(tokens))
        if len(tokens) > ROWS:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    handle = lm.model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until"])
def test_auto_recovers_as_hf_does_and_records_are_exact(kind: str) -> None:
    auto = HFMoE(pretrained="demo", batch_size="auto", max_batch_size=16, max_length=96, reuse="off")
    with little_memory(auto) as seen:
        answers = getattr(auto, kind)(requests(kind), disable_tqdm=True)
    assert max(seen) > ROWS, "the detection must have met the limit"
    stock = HFLM(pretrained=str(demo_model_path()), device="cpu", batch_size="auto", max_batch_size=16, max_length=96)
    with little_memory(stock):
        assert getattr(stock, kind)(requests(kind), disable_tqdm=True) == answers
    alone = HFMoE(pretrained="demo", batch_size=1, max_length=96)
    getattr(alone, kind)(requests(kind), disable_tqdm=True)
    assert set(auto.captured.records) == set(alone.captured.records)
    for number in range(12):
        one, other = (lm.captured.record(RequestKey("problems", number, 0)) for lm in (auto, alone))
        assert one is not None
        assert other is not None
        assert one.tokens == other.tokens
        np.testing.assert_array_equal(one.counts, other.counts)


def test_with_the_response_cache_the_batch_size_is_found_once(tmp_path: Path) -> None:
    lm = HFMoE(pretrained="demo", batch_size="auto", max_batch_size=16, max_length=96)
    plain = lm.generate_until(many := requests("generate_until") * 7, disable_tqdm=True)
    lm.captured.clear()
    lm.set_response_cache(ResponseCache(tmp_path / "answers"))
    probes: list[int] = []
    detect = lm._detect_batch_size

    def counted(*args: Any, **kwargs: Any) -> int:
        probes.append(1)
        return detect(*args, **kwargs)

    lm._detect_batch_size = counted  # type: ignore[method-assign]
    assert lm.generate_until(many, disable_tqdm=True) == plain
    assert len(many) > 64, "there must be several blocks"
    assert len(probes) == 1
    assert lm.batch_size == "auto"
    assert lm.generate_until(many, disable_tqdm=True) == plain
    assert len(probes) == 1, "what is on disk needs no batch"


def test_a_batch_that_does_not_fit_leaves_the_model_as_it_was() -> None:
    lm = HFMoE(pretrained="demo", batch_size=8)
    with little_memory(lm), pytest.raises(RuntimeError, match="out of memory"):
        lm.loglikelihood(requests("loglikelihood"), disable_tqdm=True)
    lm.captured.clear()
    after = lm.loglikelihood(requests("loglikelihood"), disable_tqdm=True)
    assert after == HFMoE(pretrained="demo", batch_size=8).loglikelihood(requests("loglikelihood"), disable_tqdm=True)
