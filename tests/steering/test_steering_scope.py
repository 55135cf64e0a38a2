"""The limits `languages` and `tokens` hold per row and per token, however requests are batched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import steered_oracle
from support.hf_cases import CHOICES, PAIRS, build, generated, likelihoods, rolled, scored
from support.small_models import make_model
from support.steered_oracle import Change, keyed_noise, log_likelihood, spec_of, steered

from lm_eval_moe import HFMoE
from lm_eval_moe.backends.capturing import Captured, CaptureRequest
from lm_eval_moe.errors import UserError
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.steering import parse_spec

TARGETS = {1: {1: 1.0, 6: 1.0, 3: 1.0}, 2: {0: 1.0, 5: 1.0, 7: 1.0}}
MASK = Change("mask", TARGETS)
MANY = Change("activate", {layer: dict.fromkeys((0, 1, 3, 4, 6), 1.0) for layer in (1, 2)})
"""More targets than the two experts a token selects: the noise decides."""


def close(values: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(values, expected, atol=1e-5, rtol=2.5e-7)


def differ(values: list[float], others: list[float]) -> None:
    assert (np.abs(np.subtract(values, others)) > 1e-3).all(), "every request must be steered visibly"


def limited(tokens: str, action: str = "mask", strength: float = 0.0) -> Change:
    return Change(action, TARGETS, strength, tokens)


# ---------------------------------------------------------------------- languages


@pytest.mark.parametrize("logits_cache", [True, False])
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_rows_of_one_batch_are_steered_by_their_own_language(family: str, logits_cache: bool, tokenizer: Any) -> None:
    """Tasks of three languages with the same texts, shuffled into the same batches, some sharing a row."""
    lm, plain = build(family, tokenizer, batch_size=8, logits_cache=logits_cache), make_model(family)
    languages = {"task_en": "en", "task_de": "de", "task_sw": "sw"}
    lm.captured = Captured(CaptureRequest(languages=languages))
    texts = PAIRS[:3] + CHOICES
    order = np.random.default_rng(0).permutation(3 * len(texts))
    requests = [(task, texts[number]) for task in languages for number in range(len(texts))]
    requests = [requests[index] for index in order]
    pairs, tasks = [pair for _, pair in requests], [task for task, _ in requests]

    lm.set_steering(parse_spec(spec_of([MASK], languages=["de", "sw"])))
    values = likelihoods(lm, scored(pairs, tasks))
    alone = {}
    for pair in texts:
        context, continuation = lm._encode_pair(*pair)
        with steered(family, plain, [MASK]):
            alone[pair, True] = log_likelihood(plain, context, continuation)
        alone[pair, False] = log_likelihood(plain, context, continuation)
    differ([alone[pair, True] for pair in texts], [alone[pair, False] for pair in texts])
    close(values, [alone[pair, task != "task_en"] for task, pair in requests])
    for number, (task, pair) in enumerate(requests):
        record = lm.captured.record(RequestKey(task, number, 0))
        length = sum(map(len, lm._encode_pair(*pair))) - 1
        assert record.targeted.tolist() == [
            length if task != "task_en" and layer in (1, 2) else 0 for layer in lm.routing_shape.layers
        ]


def test_each_intervention_has_its_own_languages(tokenizer: Any) -> None:
    lm, plain = build("granitemoe", tokenizer, batch_size=8), make_model("granitemoe")
    languages = {"task_en": "en", "task_de": "de", "task_sw": "sw"}
    lm.captured = Captured(CaptureRequest(languages=languages))
    german, not_english = Change("bias", {1: {2: 1.0, 5: 1.0}}, 3.0), Change("mask", {1: {5: 1.0}, 2: {0: 1.0}})
    spec = spec_of([german, not_english])
    spec["interventions"][0]["languages"] = ["de"]
    spec["interventions"][1]["languages"] = {"all_but": ["en"]}
    lm.set_steering(parse_spec(spec))
    expected = []
    for changes in ([], [german, not_english], [not_english]):
        with steered("granitemoe", plain, changes):
            expected += [log_likelihood(plain, *lm._encode_pair(*pair)) for pair in PAIRS]
    tasks = [task for task in languages for _ in PAIRS]
    close(likelihoods(lm, scored(PAIRS * 3, tasks)), expected)


def test_generation_is_steered_by_each_prompts_language(tokenizer: Any) -> None:
    family = "qwen3_moe"
    lm, plain = build(family, tokenizer, batch_size=8), make_model(family)
    lm.captured = Captured(CaptureRequest(languages={"task_en": "en", "task_de": "de"}))
    prompts = [context for context, _ in PAIRS]
    lm.set_steering(parse_spec(spec_of([MASK], languages=["de"])))
    requests = generated(prompts * 2, ["task_en"] * len(prompts) + ["task_de"] * len(prompts))
    texts = lm.generate_until(requests, disable_tqdm=True)
    expected = [
        tokenizer.decode(
            steered_oracle.generate(family, plain, changes, tokenizer.encode(prompt), 8), skip_special_tokens=True
        )
        for changes in ([], [MASK])
        for prompt in prompts
    ]
    assert texts == expected
    assert all(map(str.__ne__, expected[: len(prompts)], expected[len(prompts) :]))


# ---------------------------------------------------------------------- tokens


@pytest.mark.parametrize("tokens", ["prompt", "generated", "all"])
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v2", "gpt_oss"])
def test_scored_requests_are_steered_in_their_phase(family: str, tokens: str, tokenizer: Any) -> None:
    lm, plain = build(family, tokenizer, batch_size=8), make_model(family)
    changes = [limited(tokens), limited("prompt", "bias", 1.0)]
    pairs = [(context, continuation + " and so on") for context, continuation in PAIRS]
    unsteered = likelihoods(lm, scored(pairs))
    lm.set_steering(parse_spec(spec_of(changes)))
    lm.captured = Captured(CaptureRequest(changes=True))
    values = likelihoods(lm, scored(pairs))
    differ(values, unsteered)
    expected = []
    for number, (context, continuation) in enumerate(lm._encode_pair(*pair) for pair in pairs):
        with steered(family, plain, changes, len(context)) as seen:
            expected.append(log_likelihood(plain, context, continuation))
        check_counts(lm, number, seen, changes, len(context))
    close(values, expected)


def check_counts(lm: HFMoE, number: int, seen: steered_oracle.Seen, changes: list[Change], prompt: int) -> None:
    """Compare what steering is said to have reached with the selections seen by hand."""
    record = lm.captured.record(RequestKey("task", number, 0))
    for position, layer in enumerate(lm.routing_shape.layers):
        chosen, plain = seen.steered[layer], seen.plain[layer]
        generated = np.arange(len(chosen)) >= prompt
        at = np.zeros(len(chosen), dtype=bool)
        hit = np.zeros(len(chosen), dtype=bool)
        for change in changes:
            if layer not in change.experts:
                continue
            here = {"all": True, "prompt": ~generated, "generated": generated}[change.tokens]
            at |= here
            hit |= here & np.isin(chosen, list(change.experts[layer])).any(1)
        assert record.targeted[position] == at.sum()
        assert record.hit[position] == hit.sum()
        assert record.changed[position] == (at & (np.sort(chosen, 1) != np.sort(plain, 1)).any(1)).sum()


@pytest.mark.parametrize("tokens", ["prompt", "generated"])
def test_requests_of_one_row_are_steered_up_to_their_own_boundary(tokens: str, tokenizer: Any) -> None:
    """The same tokens split at four places, and one-token choices of the same row: lm-eval would run a single row."""
    family = "mixtral"
    lm, plain = build(family, tokenizer), make_model(family)
    change = limited(tokens)
    sentence = tokenizer.encode("The cat sat on the mat. How many apples are left?")
    splits = [(sentence[:cut], sentence[cut:]) for cut in (5, 9, 3, len(sentence) - 1)]
    splits += [(sentence[:-1], [token]) for token in (17, 45, 200)]
    requests = [(("", ""), *split) for split in splits]
    lm.set_steering(parse_spec(spec_of([change])))
    values = [value for value, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]
    expected = []
    for context, continuation in splits:
        with steered(family, plain, [change], len(context)):
            expected.append(log_likelihood(plain, context, continuation))
    close(values, expected)
    unsteered = [log_likelihood(plain, *split) for split in splits]
    differ(values[:3], unsteered[:3])
    if tokens == "generated":
        close(values[3:], unsteered[3:])
    else:
        differ(values[3:], unsteered[3:])


@pytest.mark.parametrize("tokens", ["prompt", "generated", "all"])
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_generation_is_steered_at_prefill_or_at_decoding(family: str, tokens: str, tokenizer: Any) -> None:
    """As a run of the whole sequence for every new token, which steers only the positions of the phase."""
    lm, plain = build(family, tokenizer, batch_size=4), make_model(family)
    changes = [limited(tokens)]
    prompts = [context for context, _ in PAIRS]
    unsteered = lm.generate_until(generated(prompts), disable_tqdm=True)
    lm.set_steering(parse_spec(spec_of(changes)))
    lm.captured = Captured(CaptureRequest(changes=True))
    texts = lm.generate_until(generated(prompts), disable_tqdm=True)
    fed = [steered_oracle.generate(family, plain, changes, tokenizer.encode(prompt), 8) for prompt in prompts]
    assert texts == [tokenizer.decode(ids, skip_special_tokens=True) for ids in fed]
    assert sum(map(str.__ne__, texts, unsteered)) > len(texts) // 2
    for number, (prompt, ids) in enumerate(zip(prompts, fed, strict=True)):
        start = tokenizer.encode(prompt)
        with steered(family, plain, changes, len(start)) as seen, torch.no_grad():
            plain(torch.tensor([start + ids[:-1]]))
        check_counts(lm, number, seen, changes, len(start))


@pytest.mark.parametrize("tokens", ["prompt", "generated", "all"])
def test_rolling_windows_are_steered_each_as_a_sequence(tokens: str, tokenizer: Any) -> None:
    """The scored tokens of a text are its continuation; the token before them is the prompt."""
    family, length = "olmoe", 16
    lm, plain = build(family, tokenizer, max_length=length, batch_size=3), make_model(family)
    texts = ["".join(pair) for pair in PAIRS] + ["The cat sat on the mat and all night rain fell on the quiet town."]
    change = limited(tokens)
    lm.set_steering(parse_spec(spec_of([change])))
    values = lm.loglikelihood_rolling(rolled(texts), disable_tqdm=True)
    for number, (text, value) in enumerate(zip(texts, values, strict=True)):
        ids = [lm.prefix_token_id, *lm.tok_encode(text)]
        total, targeted = 0.0, 0
        for start in range(0, len(ids) - 1, length):
            scores = ids[start + 1 : start + 1 + length]
            window = ids[max(0, start + len(scores) - length) : start + len(scores)]
            context = window[: len(window) - len(scores) + 1]
            with steered(family, plain, [change], len(context)):
                total += log_likelihood(plain, context, scores)
            # Tokens that a window repeats from the one before are steered again, but they are one token of the text.
            targeted += {"prompt": 1, "generated": len(scores) - 1, "all": len(scores)}[tokens]
        close([value], [total])
        assert lm.captured.record(RequestKey("task", number, 0)).targeted.tolist() == [0, targeted, targeted]


@pytest.mark.parametrize("task", ["nowhere_listed", None])
def test_a_limit_is_not_passed_over_where_the_language_is_unknown(task: str | None, tokenizer: Any) -> None:
    lm = build("qwen3_moe", tokenizer)
    lm.set_steering(parse_spec(spec_of([MASK], languages={"all_but": ["en"]})))
    for kind, requests in (
        (lm.loglikelihood, scored(PAIRS, [task] * len(PAIRS))),
        (lm.loglikelihood_rolling, rolled(["The cat"], task)),
        (lm.generate_until, generated(["The cat"], [task])),
    ):
        with pytest.raises(UserError, match=f"limited to some languages, but the language of task {task!r} is unknown"):
            kind(requests, disable_tqdm=True)
    lm.set_steering(parse_spec(spec_of([MASK])))
    assert lm.loglikelihood(scored(PAIRS, [task] * len(PAIRS)), disable_tqdm=True)


def test_windows_repeated_for_other_processes_are_steered_but_not_counted(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval repeats a process's first window until all processes have as many."""
    lm = build("qwen3_moe", tokenizer, batch_size=8)
    lm.captured = Captured(CaptureRequest(languages={"task": "sw"}))
    lm.set_steering(parse_spec(spec_of([MASK], languages=["sw"])))
    texts = ["".join(pair) for pair in PAIRS[:3]]
    expected = lm.loglikelihood_rolling(rolled(texts), disable_tqdm=True)
    alone = {key: lm.captured.record(key) for key in lm.captured.records}
    lm.captured.clear()
    with monkeypatch.context() as patch:
        patch.setattr(lm, "_world_size", 2)
        patch.setattr(lm, "all_gather", lambda own: torch.stack([own, own + 2]))
        values = lm.loglikelihood_rolling(rolled(texts), disable_tqdm=True)
    close(values, expected)
    assert set(lm.captured.records) == set(alone)
    for key, record in alone.items():
        assert np.array_equal(lm.captured.record(key).counts, record.counts)


# ---------------------------------------------------------------------- noise


def test_ties_are_broken_alike_in_every_batch(tokenizer: Any) -> None:
    """More targets than are selected: the same experts whatever the batch size, the order and the padding."""
    family = "qwen3_moe"
    lm, plain = build(family, tokenizer), make_model(family)
    lm.set_steering(parse_spec(spec_of([MANY])))
    expected = []
    for context, continuation in (lm._encode_pair(*pair) for pair in PAIRS):
        with steered(family, plain, [MANY], noise=keyed_noise([*context, *continuation][:-1])):
            expected.append(log_likelihood(plain, context, continuation))
    counts = {}
    for batch_size in (1, 3, 8):
        for requests in (scored(PAIRS), scored(PAIRS)[::-1]):
            lm.batch_size_per_gpu = batch_size
            lm.captured.clear()
            values = likelihoods(lm, requests)
            close(values if requests[0].doc_id == 0 else values[::-1], expected)
            for number in range(len(PAIRS)):
                found = lm.captured.record(RequestKey("task", number, 0)).counts
                assert np.array_equal(found, counts.setdefault(number, found))
    spec = spec_of([MANY])
    lm.set_steering(parse_spec({**spec, "seed": spec["seed"] + 1}))
    differ(likelihoods(lm, scored(PAIRS))[:5], expected[:5])


def test_ties_are_broken_alike_step_by_step_and_in_one_pass(tokenizer: Any) -> None:
    """Left-padded generation with a cache, right-padded scoring, and by hand one sequence in one pass."""
    family = "qwen2_moe"
    lm, plain = build(family, tokenizer, batch_size=4, capture="all"), make_model(family)
    lm.set_steering(parse_spec(spec_of([MANY])))
    prompts = [context for context, _ in PAIRS]
    texts = lm.generate_until(generated(prompts), disable_tqdm=True)
    fed = [
        steered_oracle.generate(family, plain, [MANY], tokenizer.encode(prompt), 8, noise_of=keyed_noise)
        for prompt in prompts
    ]
    assert texts == [tokenizer.decode(ids, skip_special_tokens=True) for ids in fed]
    stepwise = [lm.captured.record(RequestKey("task", number, 0)) for number in range(len(prompts))]
    lm.captured.clear()
    # Score exactly the tokens that were generated.
    requests = [
        (RequestKey("task", number, 0), tokenizer.encode(prompt), ids)
        for number, (prompt, ids) in enumerate(zip(prompts, fed, strict=True))
    ]
    lm.score_tokens(requests)
    for number, record in enumerate(stepwise):
        again = lm.captured.record(RequestKey("task", number, 0))
        assert again.tokens == record.tokens
        assert np.array_equal(again.counts, record.counts)
        assert np.array_equal(again.hit, record.hit)
