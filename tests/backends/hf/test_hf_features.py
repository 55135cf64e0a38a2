"""What `hf` can do, `hf-moe` can do: loading from disk, adapters, offloading, templates, truncation, sampling."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from support import oracle
from support.hf_cases import CHOICES, PAIRS, build, build_plain, generated, likelihoods, rolled, scored
from support.small_models import make_model
from transformers import GenerationMixin

from lm_eval_moe import HFMoE
from lm_eval_moe.doctor.runs import Runs, undisturbed
from lm_eval_moe.errors import UserError
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.recording.generation import GenerationTracker
from lm_eval_moe.recording.segments import Forest
from lm_eval_moe.steering import parse_spec

FAMILY = "qwen3_moe"
PROMPTS = [context for context, _ in PAIRS]
ARGUMENTS: dict[str, Any] = {"batch_size": 4, "max_length": 300, "device": "cpu"}
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def on_disk(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a saved model and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    make_model(FAMILY).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def spec(action: Any = "mask", **more: Any) -> dict[str, Any]:
    entry = {"layers": 1, "experts": {"ids": {1: [1, 6, 3]}}, "action": action, **more}
    return {"version": 1, "interventions": [entry]}


def answers(lm: HFLM) -> dict[str, Any]:
    return {
        "loglikelihood": lm.loglikelihood(scored(PAIRS + CHOICES), disable_tqdm=True),
        "rolling": lm.loglikelihood_rolling(rolled(PROMPTS), disable_tqdm=True),
        "generate_until": lm.generate_until(generated(PROMPTS), disable_tqdm=True),
    }


def check_counts(lm: HFMoE, number: int, model: Any, ids: list[int], part: slice = slice(None)) -> None:
    """Compare a record with the routing of the sequence alone in a plain model."""
    record = lm.captured.record(RequestKey("task", number, 0))
    assert record.tokens == len(ids[part])
    assert np.array_equal(record.counts, oracle.run(FAMILY, model, ids).counts(part, 8))


# ---------------------------------------------------------------------- loading


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"dtype": "bfloat16"},
        {"device_map": "cpu"},
        {"batch_size": "auto", "max_batch_size": 4, "max_length": 64},
        {"softmax_dtype": "float32", "dtype": "bfloat16"},
        {"attn_implementation": "eager"},
        {"experts_implementation": "eager"},
        {"experts_implementation": "batched_mm"},
        {"prefix_token_id": 7},
        {"truncation": True, "max_length": 32},
    ],
    ids=str,
)
def test_a_model_from_disk_answers_as_hf_does(arguments: dict[str, Any], on_disk: str) -> None:
    arguments = {**ARGUMENTS, **arguments}
    lm = HFMoE(pretrained=on_disk, capture="all", **arguments)
    assert answers(lm) == answers(HFLM(pretrained=on_disk, **arguments))
    assert len(lm.captured.records) == len(PAIRS + CHOICES), "the requests of the three kinds have the same names"


def test_steering_works_with_every_experts_implementation(on_disk: str) -> None:
    values = [
        likelihoods(
            HFMoE(pretrained=on_disk, steering=parse_spec(spec()), experts_implementation=name, **ARGUMENTS),
            scored(PAIRS),
        )
        for name in ("eager", "batched_mm", "grouped_mm")
    ]
    np.testing.assert_allclose(values[1], values[0], atol=1e-4)
    np.testing.assert_allclose(values[2], values[0], atol=1e-4)


def test_steering_that_does_not_fit_is_refused_before_weights_are_read(on_disk: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in Path(on_disk).iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    steering = tmp_path / "steer.yaml"
    for text, message in (
        ("layers: 7", r"steer\.yaml: interventions\.0\.layers: .*MoE layers 0-2"),
        ("layers: 1, tokens: promt", r"steer\.yaml: interventions\.0\.tokens: .*prompt"),
        ("layers: 1, extra: 2", r"steer\.yaml: interventions\.0\.extra"),
    ):
        steering.write_text(
            f"version: 1\ninterventions:\n  - {{{text}, experts: {{ids: {{all: [3]}}}}, action: mask}}\n"
        )
        with pytest.raises(UserError, match=f"(?s){message}"):
            HFMoE(pretrained=str(folder), steering=str(steering), **ARGUMENTS)
    steering.write_text("version: 1\ninterventions:\n  - {layers: 1, experts: {ids: {1: [8]}}, action: mask}\n")
    with pytest.raises(UserError, match=r"there is no expert 8"):
        HFMoE(pretrained=str(folder), steering=str(steering), **ARGUMENTS)
    steering.write_text("version: 1\ninterventions:\n  - {layers: 1, experts: {ids: {1: [7]}}, action: mask}\n")
    with pytest.raises(OSError, match="no file named"):  # a steering file that fits goes on to the weights
        HFMoE(pretrained=str(folder), steering=str(steering), **ARGUMENTS)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot load the config of"):
        HFMoE(pretrained=str(tmp_path), **ARGUMENTS)


def test_a_steering_file_steers_a_model_from_disk(on_disk: str, tmp_path: Path) -> None:
    steering = tmp_path / "steer.yaml"
    steering.write_text("version: 1\ninterventions:\n  - {layers: 1, experts: {ids: {1: [1, 6, 3]}}, action: mask}\n")
    lm = HFMoE(pretrained=on_disk, steering=str(steering), **ARGUMENTS)
    assert lm.steering.name == "steer"
    steered = answers(lm)
    lm.set_steering(None)
    assert answers(lm) == answers(HFLM(pretrained=on_disk, **ARGUMENTS)) != steered
    lm.set_steering(parse_spec(spec()))
    assert answers(lm) == steered


def test_offloaded_layers_are_captured_and_steered(on_disk: str, tmp_path: Path) -> None:
    """Weights on disk come in for each call; accelerate's own forwards stay in place."""
    parts = [
        "model.embed_tokens",
        *(f"model.layers.{n}" for n in range(3)),
        "model.norm",
        "model.rotary_emb",
        "lm_head",
    ]
    lm = HFMoE(
        pretrained=on_disk,
        parallelize=True,
        device_map=dict.fromkeys(parts, "disk"),
        offload_folder=str(tmp_path),
        **ARGUMENTS,
    )
    gate = lm.model.model.layers[1].mlp.gate
    assert gate.weight.is_meta, "the layer must be offloaded for the test to mean anything"
    wrapped = vars(gate)["forward"]
    memory = HFMoE(pretrained=on_disk, **ARGUMENTS)
    for steering in (None, parse_spec(spec()), parse_spec(spec("activate", guard=True))):
        lm.set_steering(steering)
        memory.set_steering(steering)
        lm.captured.clear()
        memory.captured.clear()
        assert answers(lm) == answers(memory)
        assert len(lm.captured.records) == len(PAIRS + CHOICES)
        for key in lm.captured.records:
            assert np.array_equal(lm.captured.record(key).counts, memory.captured.record(key).counts)
            assert np.array_equal(lm.captured.record(key).hit, memory.captured.record(key).hit)
    lm.set_steering(None)
    with undisturbed(lm):
        seen = Runs(lm).witnesses.values()  # the doctor loads a layer's experts to mute them
    assert all(each.effective > 0 and each.weighed and not each.wrong and each.not_seen is None for each in seen)
    assert all(parameter.is_meta for parameter in lm.model.model.layers.parameters())
    lm.captured.clear()
    memory.set_steering(None)
    assert answers(lm) == answers(memory)
    assert vars(gate)["forward"] is wrapped


# ---------------------------------------------------------------------- adapters


def test_lora_on_attention_is_captured_and_steered(on_disk: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(make_model(FAMILY), config).save_pretrained(tmp_path)
    lm = HFMoE(pretrained=on_disk, peft=str(tmp_path), capture="all", **ARGUMENTS)
    adapted = answers(HFLM(pretrained=on_disk, peft=str(tmp_path), **ARGUMENTS))
    assert adapted != answers(HFLM(pretrained=on_disk, **ARGUMENTS)), "the adapter must matter"
    assert answers(lm) == adapted

    merged = lm.model.merge_and_unload()
    lm = HFMoE(pretrained=on_disk, peft=str(tmp_path), capture="all", **ARGUMENTS)
    lm.loglikelihood(scored(PAIRS), disable_tqdm=True)
    for number, (context, continuation) in enumerate(lm._encode_pair(*pair) for pair in PAIRS):
        check_counts(lm, number, merged, (context + continuation)[:-1])
    lm.set_steering(parse_spec(spec()))
    steered = HFMoE(pretrained=merged, tokenizer=lm.tokenizer, steering=parse_spec(spec()), batch_size=4)
    np.testing.assert_allclose(likelihoods(lm, scored(PAIRS)), likelihoods(steered, scored(PAIRS)), atol=1e-4)
    texts = lm.generate_until(generated(PROMPTS), disable_tqdm=True)
    assert texts == steered.generate_until(generated(PROMPTS), disable_tqdm=True)
    assert texts != adapted["generate_until"]


@pytest.mark.filterwarnings("ignore:Position ids are not supported")
def test_virtual_tokens_of_prompt_tuning_are_not_counted(on_disk: str, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    torch.manual_seed(1)
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    get_peft_model(make_model(FAMILY), config).save_pretrained(tmp_path)
    lm = HFMoE(pretrained=on_disk, peft=str(tmp_path), capture="all", **ARGUMENTS)
    plain = HFLM(pretrained=on_disk, peft=str(tmp_path), **ARGUMENTS)
    assert lm.loglikelihood(scored(PAIRS), disable_tqdm=True) == plain.loglikelihood(scored(PAIRS), disable_tqdm=True)
    for number, pair in enumerate(PAIRS):
        record = lm.captured.record(RequestKey("task", number, 0))
        assert record.tokens == sum(map(len, lm._encode_pair(*pair))) - 1
        assert (record.counts.sum(1) == 2 * record.tokens).all()
    if "past_key_values" not in signature(GenerationMixin.prepare_inputs_for_generation).parameters:
        # PEFT 0.21 does not know the cache by the name that transformers 5.24 has for it: it feeds every prompt anew.
        with pytest.raises(UserError, match="where one is expected"):
            lm.generate_until(generated(PROMPTS), disable_tqdm=True)
        return
    expected = plain.generate_until(generated(PROMPTS), disable_tqdm=True)
    assert lm.generate_until(generated(PROMPTS), disable_tqdm=True) == expected
    lm.set_steering(parse_spec(spec(tokens="prompt")))
    lm.captured.clear()
    texts = lm.generate_until(generated(PROMPTS), disable_tqdm=True)
    assert texts != expected
    for number, prompt in enumerate(PROMPTS):
        length = len(lm.tok_encode(prompt))
        assert lm.captured.record(RequestKey("task", number, 0)).targeted.tolist() == [0, length, 0]


# ---------------------------------------------------------------------- prompts


def test_chat_templates_are_applied_and_captured(tokenizer: Any) -> None:
    lm, hf = build(FAMILY, tokenizer, capture="all"), build_plain(FAMILY, tokenizer)
    history = [{"role": "system", "content": "Count."}, {"role": "user", "content": "How many apples are left?"}]
    before = tokenizer.chat_template
    tokenizer.chat_template = TEMPLATE
    try:
        prompt = lm.apply_chat_template(history)
        assert prompt == hf.apply_chat_template(history)
        assert lm.chat_template(True) == hf.chat_template(True)
        assert lm.tokenizer_name == hf.tokenizer_name
    finally:
        tokenizer.chat_template = before
    assert prompt == "<system>Count.\n<user>How many apples are left?\n<assistant>"
    pairs = [(prompt, " three"), *PAIRS]
    assert lm.loglikelihood(scored(pairs), disable_tqdm=True) == hf.loglikelihood(scored(pairs), disable_tqdm=True)
    context, continuation = lm._encode_pair(*pairs[0])
    check_counts(lm, 0, hf.model, (context + continuation)[:-1])


def test_an_empty_context_is_the_prefix_token(tokenizer: Any) -> None:
    lm, hf = build(FAMILY, tokenizer, capture="prompt"), build_plain(FAMILY, tokenizer)
    pairs = [("", "The cat"), ("x", " y"), ("", "x")]
    assert lm.loglikelihood(scored(pairs), disable_tqdm=True) == hf.loglikelihood(scored(pairs), disable_tqdm=True)
    for number in (0, 2):
        check_counts(lm, number, hf.model, [lm.prefix_token_id])
    lm.set_capture("all")
    lm.captured.clear()
    lm.loglikelihood(scored(pairs), disable_tqdm=True)
    check_counts(lm, 0, hf.model, [lm.prefix_token_id, *lm.tok_encode("The cat")][:-1])


def test_an_empty_prompt_beside_others_has_a_continuation(tokenizer: Any) -> None:
    """lm-eval pads it whole; alone, it has nothing to generate from, which `hf` answers with a crash."""
    lm, hf = build("olmoe", tokenizer, capture="continuation"), build_plain("olmoe", tokenizer)
    prompts = ["", "The cat sat"]
    requests = generated(prompts, min_new_tokens=8)
    texts = lm.generate_until(requests, disable_tqdm=True)
    assert texts == hf.generate_until(requests, disable_tqdm=True)
    assert all(texts)
    for number in range(2):
        record = lm.captured.record(RequestKey("task", number, 0))
        assert record.tokens == 7
        assert (record.counts.sum(1) == 14).all()
    with pytest.raises(UserError, match="a prompt has no tokens"):
        lm.generate_until(generated([""]), disable_tqdm=True)


def test_a_token_at_the_beginning_is_counted(on_disk: str) -> None:
    lm = HFMoE(pretrained=on_disk, add_bos_token=True, **ARGUMENTS)
    hf = HFLM(pretrained=on_disk, add_bos_token=True, **ARGUMENTS)
    assert answers(lm) == answers(hf)
    lm.captured.clear()
    lm.loglikelihood(scored([("The cat", " sat"), ("x", " y")]), disable_tqdm=True)
    ids = lm.tok_encode("The cat")
    assert ids[0] == lm.tokenizer.bos_token_id
    check_counts(lm, 0, hf.model, ids)
    lm.captured.clear()
    lm.generate_until(generated(["The cat", "x"]), disable_tqdm=True)
    check_counts(lm, 0, hf.model, ids)


@pytest.mark.parametrize("span", ["prompt", "continuation", "all"])
def test_long_prompts_are_truncated_from_the_left_and_still_attributed(span: str, tokenizer: Any) -> None:
    length = 12
    lm = build(FAMILY, tokenizer, capture=span, max_length=length)
    hf = build_plain(FAMILY, tokenizer, max_length=length)
    sentence = "Rain fell all night on the quiet town, and the cat sat on the mat."
    pairs = [(sentence, " How many?"), ("The", " cat"), (sentence[5:], " and so on and on"), (sentence, ".")]
    assert lm.loglikelihood(scored(pairs), disable_tqdm=True) == hf.loglikelihood(scored(pairs), disable_tqdm=True)
    for number, (context, continuation) in enumerate(lm._encode_pair(*pair) for pair in pairs):
        ids = (context + continuation)[-length - 1 :]
        boundary = len(ids) - len(continuation)
        part = {"prompt": slice(boundary), "continuation": slice(boundary, None), "all": slice(None)}[span]
        check_counts(lm, number, hf.model, ids[:-1], part)

    lm.captured.clear()
    prompts = [sentence, "The cat", sentence[5:]]
    requests = generated(prompts, max_gen_toks=4)
    assert lm.generate_until(requests, disable_tqdm=True) == hf.generate_until(requests, disable_tqdm=True)
    for number, prompt in enumerate(prompts):
        ids = tokenizer.encode(prompt)[-(length - 4) :]
        start = len(ids)
        for _ in range(3):
            with torch.no_grad():
                ids.append(int(hf.model(torch.tensor([ids])).logits[0, -1].argmax()))
        part = {"prompt": slice(start), "continuation": slice(start, None), "all": slice(None)}[span]
        check_counts(lm, number, hf.model, ids, part)


@pytest.mark.parametrize("tokens", ["prompt", "generated"])
def test_steering_keeps_to_its_phase_in_truncated_requests(tokens: str, tokenizer: Any) -> None:
    length = 12
    lm = build(FAMILY, tokenizer, max_length=length, steering=parse_spec(spec(tokens=tokens)))
    pairs = [("Rain fell all night on the quiet town and on the mat", " How many apples?"), ("The", " cat sat")]
    likelihoods(lm, scored(pairs))
    for number, (context, continuation) in enumerate(lm._encode_pair(*pair) for pair in pairs):
        fed = min(len(context) + len(continuation) - 1, length)
        generated_tokens = len(continuation) - 1
        expected = generated_tokens if tokens == "generated" else fed - generated_tokens
        assert lm.captured.record(RequestKey("task", number, 0)).targeted.tolist() == [0, expected, 0]


# ---------------------------------------------------------------------- generation arguments


@pytest.mark.parametrize("think_end_token", ["e", 72])
def test_thinking_is_cut_off_the_text_but_captured(think_end_token: str | int, tokenizer: Any) -> None:
    lm = build("olmoe", tokenizer, think_end_token=think_end_token, capture="all")
    hf = build_plain("olmoe", tokenizer, think_end_token=think_end_token)
    requests = generated(PROMPTS, max_gen_toks=12)
    whole = build_plain("olmoe", tokenizer).generate_until(requests, disable_tqdm=True)
    texts = lm.generate_until(requests, disable_tqdm=True)
    assert texts == hf.generate_until(requests, disable_tqdm=True)
    assert texts != whole, "something must be cut for the test to mean anything"
    untouched = build("olmoe", tokenizer, capture="all")
    assert untouched.generate_until(requests, disable_tqdm=True) == whole
    for key in untouched.captured.records:
        assert lm.captured.record(key).tokens == untouched.captured.record(key).tokens
        assert np.array_equal(lm.captured.record(key).counts, untouched.captured.record(key).counts)


@pytest.mark.parametrize(
    "arguments",
    [
        {"do_sample": True, "temperature": 1.5},
        {"do_sample": True, "temperature": 0.8, "top_k": 5, "top_p": 0.9},
        {"repetition_penalty": 1.5},
        {"min_new_tokens": 6},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 3},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_generation_arguments_give_the_texts_of_hf(arguments: dict[str, Any], tokenizer: Any) -> None:
    lm, hf = build(FAMILY, tokenizer, capture="all"), build_plain(FAMILY, tokenizer)
    torch.manual_seed(3)
    expected = hf.generate_until(generated(PROMPTS, **arguments), disable_tqdm=True)
    torch.manual_seed(3)
    assert lm.generate_until(generated(PROMPTS, **arguments), disable_tqdm=True) == expected
    assert len(lm.captured.records) == len(PROMPTS)
    if arguments.get("do_sample"):
        torch.manual_seed(4)
        assert lm.generate_until(generated(PROMPTS, **arguments), disable_tqdm=True) != expected


def test_a_model_that_keeps_no_keys_and_values_gets_no_advice_on_decoding() -> None:
    class Nothing:
        thinking, stopped, ended = 0, False, False

        def add(self, token: int) -> None:
            pass

    tracker = GenerationTracker(Forest(), np.full((1, 5), True), [Nothing()], [None])
    tracker.next_pass(1, 5)
    tracker.read([7])
    with pytest.raises(UserError, match="feeds the whole text again") as refusal:
        tracker.next_pass(1, 6)
    assert "num_beams" not in str(refusal.value)
    assert "capture=off" in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_beams": 2}, "generation runs 8 rows for 4 prompts, as beam search"),
        ({"num_return_sequences": 2, "do_sample": True, "temperature": 1.0}, "generation runs 8 rows for 4 prompts"),
        ({"prompt_lookup_num_tokens": 2}, "as assisted decoding"),
    ],
)
def test_decoding_that_cannot_be_followed_is_refused(arguments: dict[str, Any], message: str, tokenizer: Any) -> None:
    """Never silently: without capture and steering, it is lm-eval's own."""
    batch_size = 1 if "prompt_lookup_num_tokens" in arguments else 4
    lm = build(FAMILY, tokenizer, batch_size=batch_size)
    requests = generated(PROMPTS[:4], **arguments)
    with pytest.raises(UserError, match=f"(?s){message}.*num_beams.*capture=off"):
        lm.generate_until(requests, disable_tqdm=True)
    lm.set_capture("off")
    lm.set_steering(parse_spec(spec()))
    with pytest.raises(UserError, match=message):
        lm.generate_until(requests, disable_tqdm=True)
    if "num_return_sequences" not in arguments:  # which lm-eval's own model cannot do either
        lm.set_steering(None)
        expected = build_plain(FAMILY, tokenizer, batch_size=batch_size).generate_until(requests, disable_tqdm=True)
        assert lm.generate_until(requests, disable_tqdm=True) == expected
