"""Where nothing is steered, nothing changes: answers are those of lm-eval's own model, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.hf_cases import CHOICES, PAIRS, build, build_plain, generated, likelihoods, rolled, scored
from support.small_models import FAMILIES

from lm_eval_moe import HFMoE
from lm_eval_moe.backends.capturing import Captured, CaptureRequest
from lm_eval_moe.steering import parse_spec

pytestmark = pytest.mark.long

REQUESTS = PAIRS + CHOICES
TEXTS = [context + continuation for context, continuation in PAIRS] * 3
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def answers(lm: Any) -> dict[str, Any]:
    """Return what a model answers to requests of every kind."""
    return {
        "loglikelihood": lm.loglikelihood(scored(REQUESTS), disable_tqdm=True),
        "rolling": lm.loglikelihood_rolling(rolled([" ".join(TEXTS), *TEXTS[:5]]), disable_tqdm=True),
        "generate_until": lm.generate_until(
            generated([context for context, _ in PAIRS], until=["e", "\n"]), disable_tqdm=True
        ),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_capture_leaves_the_likelihoods_of_every_family(family: str, dtype: str, tokenizer: Any) -> None:
    expected = build_plain(family, tokenizer, DTYPES[dtype]).loglikelihood(scored(REQUESTS), disable_tqdm=True)
    lm = build(family, tokenizer, DTYPES[dtype])
    for span in ("all", "prompt", "off"):
        lm.set_capture(span)
        assert lm.loglikelihood(scored(REQUESTS), disable_tqdm=True) == expected
        assert bool(lm.captured.records) == (span != "off")
        lm.captured.clear()


@pytest.mark.parametrize(
    ("dtype", "batch_size", "logits_cache"),
    [
        ("float32", 1, True),
        ("float32", 4, True),
        ("float32", 4, False),
        ("float32", "auto", True),
        ("bfloat16", 1, False),
        ("bfloat16", 4, True),
        ("bfloat16", "auto", False),
    ],
)
def test_capture_leaves_all_answers(dtype: str, batch_size: int | str, logits_cache: bool, tokenizer: Any) -> None:
    arguments = {"batch_size": batch_size, "logits_cache": logits_cache, "max_length": 48}
    expected = answers(build_plain("qwen3_moe", tokenizer, DTYPES[dtype], **arguments))
    lm = build("qwen3_moe", tokenizer, DTYPES[dtype], **arguments)
    for span in ("all", "off"):
        lm.set_capture(span)
        assert answers(lm) == expected
    assert len({len(text) for text in expected["generate_until"]}) > 1, "rows must finish at different times"


def test_capture_leaves_answers_under_mixed_precision(tokenizer: Any) -> None:
    expected = answers(build_plain("olmoe", tokenizer, mixed_precision_dtype="bfloat16"))
    lm = build("olmoe", tokenizer, mixed_precision_dtype="bfloat16", capture="all")
    assert answers(lm) == expected
    assert expected != answers(build_plain("olmoe", tokenizer)), "autocast must matter for the test to mean anything"


def steering(action: Any, **more: Any) -> Any:
    """Return a spec that acts on half of the experts of all layers."""
    entry = {"layers": "all", "experts": {"ids": {"all": [0, 3, 5, 6]}}, "action": action, **more}
    return parse_spec({"version": 1, "interventions": [entry]})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_zero_strength_changes_no_bit(family: str, dtype: str, tokenizer: Any) -> None:
    lm = build(family, tokenizer, DTYPES[dtype])
    expected = likelihoods(lm, scored(REQUESTS))
    for action in ({"soft": 0}, {"bias": 0.0}, {"proportional": -0.0}):
        lm.set_steering(steering(action))
        assert likelihoods(lm, scored(REQUESTS)) == expected
        lm.set_steering(steering({next(iter(action)): 0.9}))
        assert likelihoods(lm, scored(REQUESTS)) != expected


@pytest.mark.parametrize(("batch_size", "capture"), [(1, "all"), (4, "prompt"), (4, "off"), ("auto", "all")])
def test_zero_strength_changes_no_answer_of_any_kind(batch_size: int | str, capture: str, tokenizer: Any) -> None:
    arguments = {"batch_size": batch_size, "max_length": 48}
    expected = answers(build_plain("gpt_oss", tokenizer, **arguments))
    lm = build("gpt_oss", tokenizer, capture=capture, **arguments)
    for tokens in ("all", "generated"):
        lm.set_steering(steering({"soft": 0.0}, tokens=tokens))
        assert answers(lm) == expected


@pytest.mark.parametrize("action", ["mask", "activate", {"soft": 1.0}])
def test_an_empty_phase_changes_no_bit(action: Any, tokenizer: Any) -> None:
    """A continuation of one token is never fed to the model: no generated token is there to be steered."""
    lm = build("deepseek_v3", tokenizer)
    one_token = [(context, "a") for context, _ in PAIRS] + CHOICES
    assert all(len(lm._encode_pair(*pair)[1]) == 1 for pair in one_token)
    expected = likelihoods(lm, scored(one_token))
    text = lm.generate_until(generated(["The cat", "x"], max_gen_toks=1), disable_tqdm=True)
    lm.set_steering(steering(action, tokens="generated"))
    assert likelihoods(lm, scored(one_token)) == expected
    assert lm.generate_until(generated(["The cat", "x"], max_gen_toks=1), disable_tqdm=True) == text
    assert not any(record.targeted.any() for parts in lm.captured.records.values() for record in parts)
    lm.set_steering(steering(action, tokens="prompt"))
    assert likelihoods(lm, scored(one_token)) != expected


@pytest.mark.parametrize("languages", [["de"], {"all_but": ["en", "sw"]}])
def test_another_language_changes_no_bit(languages: Any, tokenizer: Any) -> None:
    lm = build("qwen2_moe", tokenizer)
    known = {"in_english": "en", "in_swahili": "sw", "task": "en", "in_german": "de"}
    lm.captured = Captured(CaptureRequest(languages=known))
    tasks = [("in_english", "in_swahili")[number % 2] for number in range(len(REQUESTS))]
    expected = lm.loglikelihood(scored(REQUESTS, tasks), disable_tqdm=True), answers(lm)
    lm.set_steering(steering("mask", languages=languages))
    assert (lm.loglikelihood(scored(REQUESTS, tasks), disable_tqdm=True), answers(lm)) == expected
    german = lm.loglikelihood(scored(REQUESTS, "in_german"), disable_tqdm=True)
    assert german != expected[0]


@pytest.mark.parametrize("action", ["mask", "activate", {"soft": -1.0}])
@pytest.mark.parametrize(("family", "layer"), [("qwen3_moe", 2), ("mixtral", 1), ("deepseek_v2", 2)])
def test_hidden_states_are_untouched_up_to_the_first_steered_layer(
    family: str, layer: int, action: Any, tokenizer: Any
) -> None:
    lm = build(family, tokenizer)

    def hidden_states() -> list[list[torch.Tensor]]:
        """Return what leaves each decoder layer, by layer and batch."""
        seen: list[list[torch.Tensor]] = [[] for _ in lm.model.model.layers]
        hooks = [
            module.register_forward_hook(lambda _, args, out, at=number: seen[at].append(out.clone()))
            for number, module in enumerate(lm.model.model.layers)
        ]
        try:
            lm.loglikelihood(scored(REQUESTS), disable_tqdm=True)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    before = hidden_states()
    entry = {"layers": layer, "experts": {"ids": {layer: [0, 3, 5, 6]}}, "action": action}
    lm.set_steering(parse_spec({"version": 1, "interventions": [entry]}))
    after = hidden_states()
    for number, (plain, steered) in enumerate(zip(before, after, strict=True)):
        assert len(plain) == len(steered) > 1
        same = all(torch.equal(*pair) for pair in zip(plain, steered, strict=True))
        assert same == (number < layer)


def test_steering_is_switched_and_switched_back(tokenizer: Any) -> None:
    lm = build("ernie4_5_moe", tokenizer)
    first, second = steering("mask"), steering({"soft": 1.0})
    plain = answers(lm)
    lm.set_steering(first)
    masked = answers(lm)
    lm.set_steering(second)
    softened = answers(lm)
    assert masked != plain
    assert softened not in (plain, masked)
    lm.set_steering(None)
    assert lm.steering is None
    assert answers(lm) == plain
    lm.set_steering(first)
    assert answers(lm) == masked
    fresh = HFMoE(pretrained=build_plain("ernie4_5_moe", tokenizer).model, tokenizer=tokenizer, steering=first,
                  batch_size=4, max_length=300)  # fmt: skip
    assert answers(fresh) == masked
