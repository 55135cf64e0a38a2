"""PEFT around routers and experts: what is captured and steered are the logits that the experts are chosen by."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from peft import IA3Config, LoraConfig, get_peft_model
from support import oracle
from support.altered_models import STEERINGS, behind, make, observed
from support.hf_cases import PAIRS, generated, likelihoods, scored
from support.steered_oracle import Change, keyed_noise, log_likelihood, spec_of, steered

from lm_eval_moe.errors import UserError
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.steering import parse_spec

QUERY, EXPERTS = ["q_proj"], ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
CHANGES = [
    Change("mask", {1: {1: 1.0, 6: 1.0}}),
    Change("soft", {1: {1: 1.0, 6: 1.0}}, 0.8),
    Change("activate", {1: {4: 1.0}}),
]


def adapted(family: str, config: type[Any] = LoraConfig, **arguments: Any) -> Any:
    """Return a model with an adapter whose weights matter."""
    if config is LoraConfig:
        arguments = {"r": 4, "lora_alpha": 8, **arguments}
    model = get_peft_model(make(family), config(**arguments)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name or "ia3" in name:
                weight.normal_(1.0 if "ia3" in name else 0.0, 0.3)
    return model


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        ("qwen3_moe", {"target_modules": ["gate"]}),
        ("qwen3_moe", {"target_modules": QUERY, "target_parameters": ["mlp.gate.weight"]}),
        ("qwen3_moe", {"target_parameters": EXPERTS}),
        ("qwen3_moe", {"target_modules": "all-linear"}),
        ("qwen3_moe", {"target_modules": QUERY, "modules_to_save": ["gate"]}),
        ("qwen3_moe", {"config": IA3Config, "target_modules": ["k_proj", "v_proj"], "feedforward_modules": []}),
        ("mixtral", {"target_parameters": ["mlp.gate.weight"]}),
        ("gpt_oss", {"target_parameters": ["mlp.router.weight", *EXPERTS]}),
        ("gpt_oss", {"target_modules": QUERY, "modules_to_save": ["router"]}),
        ("phimoe", {"target_parameters": ["mlp.router.weight"]}),
        ("phimoe", {"target_modules": QUERY, "modules_to_save": ["router"]}),
        ("deepseek_v3", {"target_parameters": ["mlp.gate.weight"]}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapted_model_is_captured_and_steered(family: str, arguments: dict[str, Any], tokenizer: Any) -> None:
    """Against the same model with the adapter merged into its weights, routed by hand."""
    model = adapted(family, **arguments)
    merged = copy.deepcopy(model).merge_and_unload()
    lm = behind(model, tokenizer)
    hf = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=300)
    expected = likelihoods(hf, scored(PAIRS))
    assert likelihoods(lm, scored(PAIRS)) == expected
    assert np.abs(np.subtract(expected, likelihoods(behind(make(family), tokenizer), scored(PAIRS)))).max() > 0.1
    requests = generated([context for context, _ in PAIRS], task="texts")
    assert lm.generate_until(requests, disable_tqdm=True) == hf.generate_until(requests, disable_tqdm=True)
    pairs = [lm._encode_pair(*pair) for pair in PAIRS]
    for number, (context, continuation) in enumerate(pairs):
        seen, record = (
            oracle.run(family, merged, [*context, *continuation][:-1]),
            lm.captured.record(RequestKey("task", number, 0)),
        )
        assert np.array_equal(record.counts, seen.counts(slice(None), 8))
        np.testing.assert_allclose(record.gate_mass, seen.gate_mass(slice(None), 8), atol=1e-4)
        np.testing.assert_allclose(record.importance_dense, seen.importance_dense(slice(None)), atol=1e-5)
    for change in CHANGES:
        lm.set_steering(parse_spec(spec_of([change])))
        found = likelihoods(lm, scored(PAIRS))
        for value, (context, continuation) in zip(found, pairs, strict=True):
            noise = keyed_noise([*context, *continuation][:-1]) if change.action == "activate" else None
            with steered(family, merged, [change], noise=noise):
                assert value == pytest.approx(log_likelihood(merged, context, continuation), abs=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"target_parameters": ["router.layer.weight"]},
        {"target_modules": ["Wqkv"], "modules_to_save": ["layer"]},
    ],
    ids=str,
)
def test_an_adapted_part_of_a_router_is_captured_and_steered(arguments: dict[str, Any], tokenizer: Any) -> None:
    model = adapted("dbrx", **arguments)
    merged = behind(copy.deepcopy(model).merge_and_unload(), tokenizer)
    lm = behind(model, tokenizer)
    for given in STEERINGS:
        for each in (lm, merged):
            each.set_steering(given)
            each.captured.clear()
        values = likelihoods(merged, scored(PAIRS))
        assert likelihoods(lm, scored(PAIRS)) == pytest.approx(values, abs=1e-3)
        for key in merged.captured.records:
            assert np.array_equal(lm.captured.record(key).counts, merged.captured.record(key).counts)
            np.testing.assert_allclose(
                lm.captured.record(key).importance_dense, merged.captured.record(key).importance_dense, atol=1e-5
            )


REFUSED = [
    ("dbrx", {"target_modules": ["layer"]}),
    ("dbrx", {"config": IA3Config, "target_modules": ["layer"], "feedforward_modules": []}),
    ("gemma4_text", {"target_modules": ["router.proj"]}),
    ("jetmoe", {"target_modules": ["mlp.router.layer"]}),
    ("longcat_flash", {"target_modules": ["router.classifier"]}),
    ("phimoe", {"target_modules": ["router"]}),
]


@pytest.mark.parametrize(("family", "arguments"), REFUSED, ids=str)
def test_an_adapter_behind_the_routers_linear_is_refused(
    family: str, arguments: dict[str, Any], tokenizer: Any
) -> None:
    """It adds to the linear's output: the logits of the linear are not those that decide."""
    with pytest.raises(UserError, match=r"(?s)router .* has a PEFT adapter \(Linear\) on its linear.*merge_and_unload"):
        behind(adapted(family, **arguments), tokenizer)


@pytest.mark.parametrize(
    ("family", "arguments"), [entry for entry in REFUSED if entry[0] in ("dbrx", "jetmoe")], ids=str
)
def test_the_merged_adapter_is_captured_and_steered(family: str, arguments: dict[str, Any], tokenizer: Any) -> None:
    model = adapted(family, **arguments)
    expected = likelihoods(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3), scored(PAIRS[:4]))
    seen = observed(behind(model.merge_and_unload(), tokenizer))
    assert seen[0][0] == pytest.approx(expected, abs=1e-3)
    assert len({tuple(values) for values, _, _ in seen}) == 3
