"""Engines for tests, the settings that all of them share, and how alike what they give has to be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from workload import Outcome, Workload, differences, outcome, plans_for

from lm_eval_moe.backends.registry import load_model

EAGER: dict[str, Any] = {"enforce_eager": True}
LIMITS = {"counts": 0, "targeted": 0, "hit": 0, "changed": 0, "overlap": 1e-6, "gate_mass": 2e-3}
_SPECIAL = re.compile(r"<\w+>")


def engine(pretrained: str, **settings: Any) -> Any:
    """Return a model on an engine of its own, in float32."""
    usual = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "capture": "all"}
    return load_model("vllm-moe", {"pretrained": pretrained, "gpu_memory_utilization": 0.3, **usual, **settings})


def words(text: str) -> list[str]:
    """Return the words of an answer: of special tokens, backends show different ones."""
    return _SPECIAL.sub(" ", text).split()


def assert_alike(mine: Outcome, expected: Outcome) -> None:
    """Scores and records of two backends, in float32: counts are equal, sums agree but for their last bits."""
    for kind, answers in expected.answers.items():
        own = mine.answers[kind]
        if kind == "generate_until":
            assert [words(answer) for answer in own] == [words(answer) for answer in answers]
        elif kind == "loglikelihood":
            assert [greedy for _, greedy in own] == [greedy for _, greedy in answers]
            assert [value for value, _ in own] == pytest.approx([value for value, _ in answers], abs=1e-3)
        else:
            assert own == pytest.approx(answers, abs=1e-2)
    assert mine.steered == expected.steered
    found = differences(mine, expected)
    for array, difference in found.items():
        assert difference <= LIMITS.get(array, 1e-5), found


def assert_parity(lm: Any, work: Workload, expected: dict[str, Outcome], plans: Sequence[str] = ()) -> None:
    """Check plan after plan on one engine, which goes on."""
    known = plans_for(lm.routing_shape)
    for name in plans or expected:
        assert_alike(outcome(lm, work, known[name]), expected[name])


@contextmanager
def closing(lm: Any) -> Iterator[Any]:
    """End an engine's processes behind the ``with`` block."""
    try:
        yield lm
    finally:
        lm.close()
