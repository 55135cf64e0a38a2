"""Rows that have ended leave the batch in which they are generated: the others go on as if nothing had been."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.shared_fronts import WORDS, answered, assert_alike, both, plan_of, prompts, requests
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lm_eval_moe import HFMoE
from lm_eval_moe.backends.hf.leaving import divides


def rows_of_passes(lm: HFMoE, asked: Sequence[Any], plan: Any = None) -> tuple[Any, list[int]]:
    """Return answers, and the rows of each pass."""
    seen: list[int] = []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(len(args[0] if args else kwargs["input_ids"]))

    handle = lm.model.register_forward_pre_hook(note, with_kwargs=True)
    found = answered(lm, asked, plan)
    handle.remove()
    return found, seen


def stop_strings(lm: HFMoE, texts: Sequence[str]) -> list[str]:
    """Return letters that end answers at different places: some early, some late, some never."""
    answers = answered(lm, requests(texts, max_gen_toks=24))[0]
    letters = sorted({letter for answer in answers for letter in answer if letter.isascii() and letter.isprintable()})
    ends = {letter: [answer.find(letter) for answer in answers] for letter in letters}
    found = [letter for letter, at in ends.items() if len(answers) // 4 <= sum(end >= 0 for end in at) < len(answers)]
    assert found
    return found[:2]


@pytest.mark.filterwarnings("ignore:a beginning that prompts share is computed for each")  # by those with a state
@pytest.mark.parametrize("front", [True, False])
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "deepseek_v3", "lfm2_moe", "granitemoehybrid"])
def test_texts_and_records_are_those_of_whole_batches(family: str, front: bool, tokenizer: Any) -> None:
    lm, off = both(family, tokenizer, batch_size=8)
    texts = prompts(2, count=22) if front else [f"{word} {number}" for number in range(3) for word in WORDS[:8]]
    stops = stop_strings(off, texts)
    asked = requests(texts, max_gen_toks=24, until=stops)
    for plan in (None, plan_of(lm)):
        found, rows = rows_of_passes(lm, asked, plan)
        expected, all_rows = rows_of_passes(off, asked, plan)
        assert_alike(found, expected)
        assert sum(rows) < sum(all_rows)
    assert lm._divides
    assert len(set(rows)) > 2  # some of a batch go on without the others


def test_a_batch_ends_once_every_row_has_had_one_of_the_stop_strings(tokenizer: Any) -> None:
    """lm-eval waits for all of them to have had the same one."""
    lm, off = both("qwen3_moe", tokenizer, batch_size=4)
    texts = [f"{word} {number}" for number in range(4) for word in WORDS[:4]]
    answers = answered(off, requests(texts, max_gen_toks=8))[0]
    asked = requests(texts, max_gen_toks=60, until=sorted({answer.strip()[0] for answer in answers if answer.strip()}))
    found, rows = rows_of_passes(lm, asked)
    expected, off_rows = rows_of_passes(off, asked)
    assert_alike(found, expected)
    _, stock = both("qwen3_moe", tokenizer, batch_size=4, capture="off")
    (texts_of_stock, *_), all_rows = rows_of_passes(stock, asked)
    assert expected[0] == texts_of_stock
    assert len(rows) <= len(off_rows) < len(all_rows) / 2


@pytest.mark.parametrize("more", [{"min_new_tokens": 3}, {"repetition_penalty": 1.3}])
def test_what_counts_from_the_end_of_the_prompt_keeps_its_rows(more: dict[str, Any], tokenizer: Any) -> None:
    lm, off = both("qwen3_moe", tokenizer, batch_size=8)
    texts = [f"{word} {number}" for number in range(3) for word in WORDS[:8]]
    asked = requests(texts, max_gen_toks=24, until=stop_strings(off, texts), **more)
    found, rows = rows_of_passes(lm, asked)
    expected, _ = rows_of_passes(off, asked)
    assert_alike(found, expected)
    assert set(rows) == {8}


@pytest.mark.parametrize("think_end_token", [None, 5])
def test_a_stop_string_that_no_text_shows_ends_a_batch_as_it_does_for_lm_eval(
    think_end_token: int | None, tokenizer: Any
) -> None:
    """A special token that is not the one at which `generate` ends a row."""
    tokenizer = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["a"]})
    more = {"think_end_token": think_end_token} if think_end_token is not None else {}
    lm, off = both("qwen3_moe", tokenizer, batch_size=4, **more)
    texts = [f"{word} {number}" for number in range(3) for word in WORDS[:8]]
    asked = requests(texts, max_gen_toks=30, until=["a", *stop_strings(off, texts)])
    found, rows = rows_of_passes(lm, asked)
    expected, all_rows = rows_of_passes(off, asked)
    assert_alike(found, expected)
    assert set(rows) == {4}
    assert len(rows) <= len(all_rows)


@pytest.mark.parametrize(
    ("more", "arguments"), [({}, {"do_sample": True, "temperature": 1.0}), ({"think_end_token": 5}, {})]
)
def test_rows_that_may_not_be_ended_have_as_many_tokens_as_by_lm_eval(
    more: dict[str, Any], arguments: dict[str, Any], tokenizer: Any
) -> None:
    """What is drawn depends on all that was drawn before; what is thought may end once more after a stop string."""
    lm, off = both("qwen3_moe", tokenizer, batch_size=1 if more else 4, **more)
    texts = [f"{word} {number}" for number in range(3) for word in WORDS[:4]]
    asked = requests(texts, max_gen_toks=24, until=list("etaoinsr"), **arguments)
    found = []
    for each in (lm, off):
        torch.manual_seed(1)
        found.append(rows_of_passes(each, asked))
    assert_alike(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert len(found[0][1]) < 24 * len(texts)  # some answers have ended


def test_rows_are_taken_out_of_no_cache_but_transformers_own() -> None:
    class Cache(DynamicCache):
        """May have something beside its layers."""

    class Layer(DynamicLayer):
        """May have something beside keys and values."""

    own, changed = DynamicCache(), DynamicCache()
    own.layers, changed.layers = [DynamicLayer()], [DynamicLayer(), Layer()]
    assert divides(own)
    assert not divides(changed)
    assert not divides(Cache())
    assert not divides(None)
