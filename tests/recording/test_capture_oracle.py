"""Records equal what a plain forward pass of each sequence alone routes, whatever the batching."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from lm_eval.api.instance import Instance
from support import oracle
from support.oracle import check
from support.small_models import FAMILIES, make_model

from lm_eval_moe import HFMoE
from lm_eval_moe.recording import RequestKey


def build(family: str, tokenizer: Any, **kwargs: Any) -> tuple[Any, HFMoE]:
    model = make_model(family)
    return model, HFMoE(pretrained=model, tokenizer=tokenizer, **{"batch_size": 4, "max_length": 500, **kwargs})


def instances(kind: str, arguments: list[tuple[Any, ...]], repeats: int = 1) -> list[Instance]:
    return [
        Instance(kind, doc={}, arguments=args, idx=0, metadata=("task", number, repeats))
        for number, args in enumerate(arguments)
    ]


def pairs_of(texts: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Contexts and continuations of very different lengths in several scripts, in mixed order."""
    pairs = []
    for number, sentences in enumerate(texts.values()):
        for sentence in sentences[number : number + 2]:
            cut = min(max(len(sentence) // 2, 1), 8 + 9 * number)
            pairs.append((sentence[:cut], sentence[cut : cut + 20] or "."))
    random.Random(0).shuffle(pairs)
    return pairs


@pytest.mark.parametrize("family", FAMILIES)
def test_scored_requests_are_recorded_as_each_alone(
    family: str, tokenizer: Any, real_texts: dict[str, list[str]]
) -> None:
    model, lm = build(family, tokenizer)
    pairs = pairs_of(real_texts)
    encoded = [lm._encode_pair(*pair) for pair in pairs]
    alone = [oracle.run(family, model, (context + continuation)[:-1]) for context, continuation in encoded]
    for span in ("prompt", "continuation", "all"):
        lm.captured.clear()
        lm.set_capture(span)
        lm.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
        for number, (context, continuation) in enumerate(encoded):
            length = len(context) + len(continuation) - 1
            parts = {"prompt": slice(0, len(context)), "continuation": slice(len(context), None), "all": slice(None)}
            record = lm.captured.record(RequestKey("task", number, 0))
            assert record is not None
            assert record.tokens == len(range(length)[parts[span]])
            if record.tokens:
                check(record, alone[number], parts[span])


@pytest.mark.parametrize("batch_size", [1, 3, 16, "auto"])
@pytest.mark.parametrize("logits_cache", [True, False])
def test_batching_makes_no_difference(
    batch_size: int | str, logits_cache: bool, tokenizer: Any, real_texts: dict[str, list[str]]
) -> None:
    model, lm = build(
        "qwen3_moe", tokenizer, capture="all", batch_size=batch_size, logits_cache=logits_cache, max_batch_size=8
    )
    pairs = pairs_of(real_texts)
    lm.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True)
    assert len(lm.captured.records) == len(pairs)
    for number, pair in enumerate(pairs):
        context, continuation = lm._encode_pair(*pair)
        ids = (context + continuation)[:-1]
        check(lm.captured.record(RequestKey("task", number, 0)), oracle.run("qwen3_moe", model, ids), slice(None))


def test_choices_that_share_a_row_keep_their_own_prompt(tokenizer: Any) -> None:
    """The same tokens split at another place are one row to lm-eval, but two requests with two prompts."""
    model, lm = build("qwen3_moe", tokenizer, capture="prompt")
    sentence = tokenizer.encode("The cat sat on the mat. How many apples are left?")
    requests = [((str(cut), ""), sentence[:cut], sentence[cut:]) for cut in (5, 9, 3, len(sentence) - 1)]
    requests += [(("other", ""), sentence[:-1], [sentence[-1] + 1])]
    lm.score_tokens([(RequestKey("task", number, 0), *tokens) for number, (_, *tokens) in enumerate(requests)])
    routed = oracle.run("qwen3_moe", model, sentence[:-1])
    for number, (_, context, _) in enumerate(requests):
        check(lm.captured.record(RequestKey("task", number, 0)), routed, slice(0, len(context)))


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_rolling_windows_count_each_token_once(family: str, tokenizer: Any, real_texts: dict[str, list[str]]) -> None:
    model, lm = build(family, tokenizer, max_length=32)
    texts = [" ".join(sentences[:3]) for sentences in real_texts.values()]
    lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,) for text in texts]), disable_tqdm=True)
    for number, text in enumerate(texts):
        ids = [lm.prefix_token_id, *lm.tok_encode(text)][:-1]
        record = lm.captured.record(RequestKey("task", number, 0))
        assert record is not None
        assert record.tokens == len(ids)
        # Windows are independent sequences to the model: the oracle runs them one by one, too.
        counts = np.zeros((len(lm.routing_shape.layers), 8), dtype=int)
        done = 0
        for start in range(0, len(ids), 32):
            window = ids[start : start + 32]
            if len(window) < 32 and start:
                longer = ids[-32:]
                routed = oracle.run(family, model, longer)
                counts += routed.counts(slice(32 - len(window), None), 8)
            else:
                counts += oracle.run(family, model, window).counts(slice(None), 8)
            done += len(window)
        assert done == len(ids)
        assert np.array_equal(record.counts, counts)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_recorded_as_a_rerun_of_the_whole_sequence(
    family: str, tokenizer: Any, real_texts: dict[str, list[str]]
) -> None:
    model, lm = build(family, tokenizer, capture="all", batch_size=5)
    prompts = [sentences[i][: 10 + 7 * i] for sentences in real_texts.values() for i in (0, 1)]
    requests = instances("generate_until", [(prompt, {"until": ["e", "\n"], "max_gen_toks": 12}) for prompt in prompts])
    fed = _generated_alone(lm, prompts, 12, ["e", "\n"])
    assert len({len(ids) for ids in fed}) > 1, "rows must finish at different times for the test to mean anything"
    ids_of = [tokenizer.encode(prompt) for prompt in prompts]
    reruns = [oracle.run(family, model, ids + generated[:-1]) for ids, generated in zip(ids_of, fed, strict=True)]
    for span in ("prompt", "continuation", "all"):
        lm.captured.clear()
        lm.set_capture(span)
        lm.generate_until(requests, disable_tqdm=True)
        for number, (ids, generated) in enumerate(zip(ids_of, fed, strict=True)):
            whole = ids + generated[:-1]
            part = {"prompt": slice(0, len(ids)), "continuation": slice(len(ids), None), "all": slice(None)}[span]
            record = lm.captured.record(RequestKey("task", number, 0))
            assert record is not None
            assert record.tokens == len(whole[part])
            if record.tokens:
                check(record, reruns[number], part)


def _generated_alone(lm: HFMoE, prompts: list[str], limit: int, stops: list[str]) -> list[list[int]]:
    """Greedy decoding of each prompt alone by argmax, without a cache, until the text holds a stop string."""
    import torch

    results = []
    for prompt in prompts:
        ids, generated = lm.tokenizer.encode(prompt), []
        while len(generated) < limit:
            with torch.no_grad():
                generated.append(int(lm.model(torch.tensor([ids + generated])).logits[0, -1].argmax()))
            text = lm.tokenizer.decode(generated)
            if generated[-1] == lm.tokenizer.eos_token_id or any(stop in text for stop in stops):
                break
        results.append(generated)
    return results


def test_repeats_are_recorded_one_by_one(tokenizer: Any) -> None:
    model, lm = build("qwen3_moe", tokenizer, capture="prompt")
    (request,) = instances("loglikelihood", [("The cat sat", " on the mat")], repeats=3)
    lm.loglikelihood([request] * 5, disable_tqdm=True)  # two more than its repeats: padding between processes
    assert set(lm.captured.records) == {RequestKey("task", 0, 0, repeat) for repeat in range(3)}
    routed = oracle.run("qwen3_moe", model, tokenizer.encode("The cat sat"))
    for key in list(lm.captured.records):
        check(lm.captured.record(key), routed, slice(None))
