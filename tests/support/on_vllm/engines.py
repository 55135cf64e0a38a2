"""Engines for tests, the settings that all of them share, and how alike what they give has to be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from lm_eval_moe.backends.registry import load_model
from support.on_vllm.workload import Outcome, Workload, differences, outcome, plans_for

EAGER: dict[str, Any] = {"enforce_eager": True}
Key = tuple[str, int, int]
LIMITS = {"counts": 0, "targeted": 0, "hit": 0, "changed": 0, "overlap": 1e-6, "gate_mass": 2e-3}
_SPECIAL = re.compile(r"<\|?\w+\|?>")


def engine(pretrained: str, **settings: Any) -> Any:
    """Return a model on an engine of its own, in float32."""
    usual = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 16, "capture": "all"}
    return load_model("vllm-moe", {"pretrained": pretrained, "gpu_memory_utilization": 0.3, **usual, **settings})


def words(text: str) -> list[str]:
    """Return the words of an answer: of special tokens, backends show different ones."""
    return _SPECIAL.sub(" ", text).split()


def same_text(own: str, theirs: str) -> bool:
    """Whether answers are the same; vLLM's leaves out the last letters where not all bytes of a letter are there."""
    mine, its = " ".join(words(own)), " ".join(words(theirs))
    return mine == its or (its.endswith("\N{REPLACEMENT CHARACTER}") and its.startswith(mine))


def near_ties(mine: Outcome, expected: Outcome) -> set[Key]:
    """Return the requests of which a token selected another expert: its logits were nearly the same number.

    Noise of a thousandth decides between experts that are activated together, so that this happens to a token in ten
    thousand, and to all requests that share it. What differs must be little, and of few requests.
    """
    found = set()
    for key, record in expected.records.items():
        own = Outcome({}, {key: mine.records[key]}), Outcome({}, {key: record})
        if any(difference > LIMITS.get(array, 1e-5) for array, difference in differences(*own).items()):
            moved = np.abs(mine.records[key].counts - record.counts).sum() / 2
            assert moved <= 0.01 * record.counts.sum(), (key, moved)
            found.add(key)
    assert len(found) <= 4, found
    return found


def assert_alike(mine: Outcome, expected: Outcome, work: Workload) -> None:
    """Scores and records of two backends, in float32: counts are equal, sums agree but for their last bits."""
    assert mine.records.keys() == expected.records.keys()
    ties = near_ties(mine, expected)
    for kind, requests in work.requests().items():
        for request, own, theirs in zip(
            requests, mine.answers.get(kind, ()), expected.answers.get(kind, ()), strict=True
        ):
            if (request.task_name, request.doc_id, request.idx) in ties:
                continue
            if kind == "generate_until":
                assert same_text(own, theirs), (own, theirs)
            elif kind == "loglikelihood":
                assert own[1] == theirs[1]
                assert own[0] == pytest.approx(theirs[0], abs=1e-3)
            else:
                assert own == pytest.approx(theirs, abs=1e-2)
    assert mine.steered == expected.steered


def assert_parity(lm: Any, work: Workload, expected: dict[str, Outcome], plans: Sequence[str] = ()) -> None:
    """Check plan after plan on one engine, which goes on."""
    known = plans_for(lm.routing_shape)
    for name in plans or expected:
        assert_alike(outcome(lm, work, known[name]), expected[name], work)


@contextmanager
def closing(lm: Any) -> Iterator[Any]:
    """End an engine's processes behind the ``with`` block."""
    try:
        yield lm
    finally:
        lm.close()
