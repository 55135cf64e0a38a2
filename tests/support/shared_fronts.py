"""Prompts that begin alike, answered by a model with contexts shared and by the same one without."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lm_eval_moe import HFMoE, parse_spec, resolve
from lm_eval_moe.backends.capturing import CaptureRequest
from lm_eval_moe.routing_record import ARRAYS
from support.hf_cases import generated
from support.small_models import make_model

WORDS = ("the", "cat", "sat", "on", "a", "mat", "while", "rain", "fell", "down", "all", "night", "and", "day")
TASKS = ("en", "sw")


def both(family: str, tokenizer: Any, **more: Any) -> tuple[HFMoE, HFMoE]:
    """The same weights, with contexts shared and without; in double precision no two experts are all but equal."""
    model = make_model(family, dtype=torch.float64)
    model.set_experts_implementation("eager")
    given = {"pretrained": model, "tokenizer": tokenizer, "batch_size": 4, "max_length": 300, **more}
    return HFMoE(**{"capture": "all", **given}), HFMoE(**{"capture": "all", **given}, reuse="off")


def prompts(seed: int, count: int = 14) -> list[str]:
    """Return prompts behind the same two lots of examples, in turn; some twice, one by itself."""
    draw = random.Random(seed)
    examples = [" ".join(draw.choices(WORDS, k=40)) for _ in range(2)]
    found = [f"{examples[n % 2]} {' '.join(draw.choices(WORDS, k=draw.randint(1, 9)))}" for n in range(count)]
    return [*found, found[0], "day and night"]


def requests(texts: Sequence[str], **more: Any) -> list[Any]:
    tasks = [TASKS[number // 2 % 2] for number in range(len(texts))]
    return generated(texts, tasks, **{"max_gen_toks": 6, **more})


def answered(lm: HFMoE, asked: Sequence[Any], plan: Any = None) -> tuple[list[str], dict[Any, Any], int]:
    lm.set_steering(plan)
    with lm.capturing(CaptureRequest(languages={task: task for task in TASKS}, changes=True)) as captured:
        texts = lm.generate_until(list(asked), disable_tqdm=True)
        return texts, {key: captured.record(key) for key in captured.records}, captured.steered_pairs.total()


def assert_alike(found: Any, expected: Any) -> None:
    assert found[0] == expected[0]
    assert found[2] == expected[2]
    assert found[1].keys() == expected[1].keys()
    for key, record in found[1].items():
        other = expected[1][key]
        assert record.tokens == other.tokens
        assert record.counts.tolist() == other.counts.tolist()
        for name in (*ARRAYS, "targeted", "hit", "changed"):
            mine, theirs = (np.asarray(getattr(each, name), float) for each in (record, other))
            np.testing.assert_allclose(mine, theirs, atol=2e-5, rtol=1e-4, err_msg=name)


def plan_of(lm: HFMoE) -> Any:
    first, *_, last = lm.routing_shape.layers
    interventions = [
        {"layers": first, "experts": {"ids": {first: [1]}}, "action": {"soft": 0.5}, "tokens": "prompt"},
        {"layers": last, "experts": {"ids": {last: [2, 3]}}, "action": "activate", "languages": ["sw"]},
        {"layers": last, "experts": {"ids": {last: [5]}}, "action": "mask", "tokens": "generated"},
    ]
    return resolve(parse_spec({"version": 1, "seed": 2, "interventions": interventions}), lm.routing_shape)
