"""Answers generated behind what prompts begin with, computed once, are those of prompts computed one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.shared_fronts import WORDS, answered, assert_alike, both, plan_of, prompts, requests
from transformers import DynamicCache

from lm_eval_moe.backends.cache import ResponseCache
from lm_eval_moe.backends.hf.contexts import SharedFront, all_begin_with, prompts_by_front
from lm_eval_moe.errors import RoutingWarning


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "deepseek_v3"])  # gpt_oss: the examples exceed its window
def test_texts_and_records_are_those_without_reuse(family: str, tokenizer: Any) -> None:
    lm, off = both(family, tokenizer)
    for seed, plan in ((0, None), (1, plan_of(lm))):
        asked = requests(prompts(seed))
        assert_alike(answered(lm, asked, plan), answered(off, asked, plan))
    assert lm._proof.fronts
    assert lm._proof.fronts_refused is None


def test_what_prompts_begin_with_is_computed_once(tokenizer: Any) -> None:
    lm, off = both("qwen3_moe", tokenizer)
    seen: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tokens = args[0] if args else kwargs["input_ids"]
            seen[name] = seen.get(name, 0) + tokens.numel()

        return hook

    asked = requests(prompts(3, count=40))
    answered(lm, asked)  # after which nothing has to be shown any more
    for name, each in (("shared", lm), ("alone", off)):
        handle = each.model.register_forward_pre_hook(count(name), with_kwargs=True)
        answered(each, asked)
        handle.remove()
    assert seen["shared"] < seen["alone"] / 4


def test_a_prompt_that_is_cut_is_computed_by_itself(tokenizer: Any) -> None:
    """The beginning that it had in common with others is what it loses."""
    lm, off = both("qwen3_moe", tokenizer, max_length=90)
    asked = requests([*prompts(4, count=30), f"{prompts(4)[0]} {' '.join(WORDS)}"])
    assert_alike(answered(lm, asked), answered(off, asked))


def test_answers_that_are_kept_are_those_that_are_not(tokenizer: Any, tmp_path: Path) -> None:
    lm, _ = both("qwen3_moe", tokenizer)
    asked = requests(prompts(5, count=30))
    expected = answered(lm, asked)
    cache = ResponseCache(tmp_path / "answers")
    for hits in (0, len(asked)):
        cache.hits = 0
        lm.set_response_cache(cache)
        assert_alike(answered(lm, asked), expected)
        lm.set_response_cache(None)
        assert cache.hits == hits


def test_answers_that_are_drawn_are_those_of_the_same_draws(tokenizer: Any) -> None:
    lm, off = both("qwen3_moe", tokenizer)
    asked = requests(prompts(6), do_sample=True, temperature=1.0)
    found = []
    for each in (lm, off):
        torch.manual_seed(1)
        found.append(answered(each, asked)[0])
    assert found[0] == found[1]
    assert not lm._proof.fronts


def test_a_model_that_goes_on_otherwise_is_seen_to(tokenizer: Any) -> None:
    lm, off = both("qwen3_moe", tokenizer)
    embeddings = lm.model.get_input_embeddings()
    embeddings.register_forward_hook(
        lambda _, args, out: out + 0.5 * out.mean(1, keepdim=True)
    )  # of a pass, not a text
    asked = requests(prompts(7))
    with pytest.warns(RoutingWarning, match="does not continue identically from its keys and values"):
        found = answered(lm, asked)
    assert_alike(found, answered(off, asked))


def test_prompts_are_told_apart_by_what_steers_them() -> None:
    examples = list(range(50, 200))
    texts = [[*examples, number, 7] for number in range(8)]
    [(front, numbers)] = prompts_by_front([*texts], [None] * 8)
    assert (front.tolist(), numbers) == (examples, list(range(8)))
    by_key = prompts_by_front(texts, [number % 2 for number in range(8)])
    assert [(front.tolist(), numbers) for front, numbers in by_key] == [
        (examples, [0, 2, 4, 6]),
        (examples, [1, 3, 5, 7]),
    ]
    assert [(f.tolist(), n) for f, n in prompts_by_front([[], *texts[:1]], [None] * 2)] == [([], [0, 1])]
    assert [(f.tolist(), n) for f, n in prompts_by_front([[], []], [None] * 2)] == [([], [0, 1])]


def test_padding_moves_behind_the_front() -> None:
    context = torch.tensor([[0, 0, 5, 6, 7], [5, 6, 8, 9, 3], [0, 5, 6, 4, 2]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    assert all_begin_with(np.array([5, 6]), context, mask)
    assert not all_begin_with(np.array([5, 7]), context, mask)
    assert not all_begin_with(np.array([5, 6, 7]), context, mask)  # the first row would have nothing of its own
    behind = SharedFront(2, DynamicCache()).before(context, mask)
    assert behind.tokens.tolist() == [[5, 6, 0, 0, 7], [5, 6, 8, 9, 3], [5, 6, 0, 4, 2]]
    assert behind.mask.tolist() == [[1, 1, 0, 0, 1], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1]]
    assert behind.own.tolist() == [[0, 0, 1], [1, 1, 1], [0, 1, 1]]
    assert behind.position[0, -1] == 2
