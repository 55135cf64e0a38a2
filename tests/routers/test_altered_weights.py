"""A router's weight that was moved, cast, sharded, shared or quantised; the table is in ``test_altered_models``."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from support import oracle
from support.altered_models import (
    SEVERAL,
    STEERINGS,
    behind,
    layers_of,
    make,
    observed,
    observed_plain,
    routers_of,
    steering,
)
from support.hf_cases import PAIRS, likelihoods, scored
from support.steered_oracle import Change, log_likelihood, spec_of, steered
from torch import nn
from transformers import AutoModelForCausalLM

from lm_eval_moe import HFMoE
from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.steering import parse_spec

# ---------------------------------------------------------------------- weights that are elsewhere


@pytest.mark.parametrize("family", [family for family in SEVERAL if family != "longcat_flash"])
def test_a_router_on_disk_is_captured_and_steered(family: str, tokenizer: Any, tmp_path: Path) -> None:
    """Its weight comes in for each call, to a part of the router in some families."""
    model = make(family)
    for number, router in enumerate(routers_of(family, model)):
        accelerate.disk_offload(router, str(tmp_path / str(number)), execution_device=torch.device("cpu"))
        assert all(weight.is_meta for weight in router.parameters())
    assert observed(behind(model, tokenizer)) == observed_plain(family, tokenizer)


def test_a_router_that_reads_a_weight_left_on_disk_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    """LongCat-Flash takes its classifier's weight without calling it: the model itself computes nonsense then."""
    model = make("longcat_flash")
    for number, router in enumerate(routers_of("longcat_flash", model)):
        accelerate.disk_offload(router, str(tmp_path / str(number)), execution_device=torch.device("cpu"))
    with pytest.raises(RoutingBypassedError, match="reads an offloaded weight that is not in memory"):
        behind(model, tokenizer)


def test_a_device_map_may_put_routers_alone_on_disk(tokenizer: Any, tmp_path: Path) -> None:
    make("gpt_oss").save_pretrained(tmp_path / "model")
    places = {"lm_head": "cpu", "model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu"}
    for layer in range(3):
        for part in ("self_attn", "input_layernorm", "post_attention_layernorm", "mlp.experts"):
            places[f"model.layers.{layer}.{part}"] = "cpu"
        places[f"model.layers.{layer}.mlp.router"] = "disk"
    lm = HFMoE(
        pretrained=str(tmp_path / "model"),
        tokenizer=tokenizer,
        batch_size=3,
        max_length=300,
        capture="all",
        device_map=places,
        offload_folder=str(tmp_path / "offload"),
        parallelize=True,
    )
    assert lm.model.model.layers[1].mlp.router.weight.is_meta
    assert observed(lm) == observed_plain("gpt_oss", tokenizer)


@pytest.mark.parametrize("family", ["qwen3_moe", "dbrx"])
def test_a_model_that_comes_to_the_device_when_it_is_called(family: str, tokenizer: Any) -> None:
    model, _ = accelerate.cpu_offload_with_hook(make(family), torch.device("cpu"))
    assert observed(behind(model, tokenizer)) == observed_plain(family, tokenizer)


def test_a_device_map_of_one_device(tokenizer: Any, tmp_path: Path) -> None:
    make("qwen3_moe").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="auto")
    assert observed(behind(model, tokenizer)) == observed_plain("qwen3_moe", tokenizer)


def test_a_model_without_any_device_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    model = accelerate.disk_offload(make("qwen3_moe"), str(tmp_path), execution_device=torch.device("cpu"))
    with pytest.raises(UserError, match="all weights of the model are offloaded"):
        behind(model, tokenizer)


# ---------------------------------------------------------------------- other alterations


@pytest.mark.parametrize("family", ["gpt_oss", "phimoe", "longcat_flash"])
def test_another_dtype_after_loading(family: str, tokenizer: Any) -> None:
    lm = behind(make(family), tokenizer)
    lm.model.to(torch.bfloat16)
    assert observed(lm) == observed(behind(make(family).to(torch.bfloat16), tokenizer))


@pytest.mark.parametrize("family", ["gpt_oss", "phimoe", "longcat_flash"])
def test_autocast(family: str, tokenizer: Any) -> None:
    lm, hf = behind(make(family), tokenizer), HFLM(pretrained=make(family), tokenizer=tokenizer, batch_size=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = likelihoods(hf, scored(PAIRS))
        assert likelihoods(lm, scored(PAIRS)) == expected
        lm.set_steering(STEERINGS[1])
        steered = likelihoods(lm, scored(PAIRS))
        assert steered != pytest.approx(expected, abs=1e-2)
        lm.set_steering(None)
        assert likelihoods(lm, scored(PAIRS)) == expected
    lm.set_steering(STEERINGS[1])
    assert steered == pytest.approx(likelihoods(lm, scored(PAIRS)), rel=0.05)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated")
def test_gradient_checkpointing(tokenizer: Any) -> None:
    model = make("qwen3_moe")
    model.gradient_checkpointing_enable()
    lm, expected = behind(model, tokenizer), observed_plain("qwen3_moe", tokenizer)
    assert observed(lm) == expected
    lm.model.train()  # lm-eval has switched to evaluation, where there are no checkpoints
    for given, (values, _, _) in zip(STEERINGS, expected, strict=True):
        lm.set_steering(given)
        assert likelihoods(lm, scored(PAIRS[:4])) == values


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("family", ["qwen3_moe", "longcat_flash"])
@pytest.mark.parametrize("routers_alone", [False, True])
def test_fully_sharded_weights(routers_alone: bool, family: str, tokenizer: Any) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    expected = observed_plain(family, tokenizer)
    model, mesh = make(family), init_device_mesh("cpu", (1,))
    for module in routers_of(family, model) if routers_alone else [*layers_of(model), model]:
        fully_shard(module, mesh=mesh)
    assert all(
        isinstance(p, torch.distributed.tensor.DTensor) for r in routers_of(family, model) for p in r.parameters()
    )
    assert observed(behind(model, tokenizer)) == expected


def test_models_in_several_threads(tokenizer: Any) -> None:
    expected = observed_plain("qwen3_moe", tokenizer)
    # A tokenizer is nothing for several threads: padding and truncation are set on it.
    models = [behind(make("qwen3_moe"), copy.deepcopy(tokenizer)) for _ in range(3)]
    found: list[Any] = [None] * len(models)

    def run(number: int) -> None:
        rotated = [*STEERINGS[number:], *STEERINGS[:number]]
        seen = observed(models[number], rotated)
        found[number] = [*seen[len(seen) - number :], *seen[: len(seen) - number]]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[(values, texts) for values, texts, _ in seen] for seen in found] == [
        [(values, texts) for values, texts, _ in expected]
    ] * len(models)


def test_a_weight_that_two_layers_share(tokenizer: Any) -> None:
    tied, equal = make("qwen3_moe"), make("qwen3_moe")
    tied.model.layers[2].mlp.gate.weight = tied.model.layers[1].mlp.gate.weight
    equal.model.layers[2].mlp.gate.weight.data.copy_(equal.model.layers[1].mlp.gate.weight.data)
    assert observed(behind(tied, tokenizer)) == observed(behind(equal, tokenizer))


@pytest.mark.parametrize("part", ["mlp.gate", "mlp.experts", "mlp"])
def test_a_module_that_two_layers_share_is_refused(part: str, tokenizer: Any) -> None:
    model = make("qwen3_moe")
    first, second = model.model.layers[1:]
    second.set_submodule(part, first.get_submodule(part))
    with pytest.raises(UserError, match=r"share|layer 1 runs more than once"):
        behind(model, tokenizer)


@pytest.mark.parametrize("family", ["qwen3_moe", "phimoe", "dbrx", "jetmoe"])
def test_a_parametrised_weight_is_refused(family: str, tokenizer: Any) -> None:
    model = make(family)
    for router in routers_of(family, model):
        torch.nn.utils.parametrizations.weight_norm(getattr(router, "layer", router))
    with pytest.raises(UserError, match=r"reparametrised|multiplied by its own weight 0 times"):
        behind(model, tokenizer)


def test_a_copy_in_the_place_of_the_model_is_refused(tokenizer: Any) -> None:
    lm = behind(make("qwen3_moe"), tokenizer)
    lm._model = copy.deepcopy(lm._model)
    with pytest.raises(RoutingBypassedError):
        likelihoods(lm, scored(PAIRS))


# ---------------------------------------------------------------------- quantised linears


def quantised(family: str) -> Any:
    return torch.ao.quantization.quantize_dynamic(make(family), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "gpt_oss", "phimoe", "deepseek_v3"])
def test_routers_beside_quantised_linears(family: str, tokenizer: Any) -> None:
    """A router that holds its weight as a parameter stays as it is; the scales of the others depend on the batch."""
    model = quantised(family)
    assert "quantized" in type(model.model.layers[0].self_attn.o_proj).__module__
    lm = behind(model, tokenizer, batch_size=1)
    hf = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=300)
    expected = likelihoods(hf, scored(PAIRS))
    assert likelihoods(lm, scored(PAIRS)) == expected != likelihoods(behind(make(family), tokenizer), scored(PAIRS))
    change = Change("soft", {1: {1: 1.0, 6: 1.0}}, 1.5)
    pairs = [lm._encode_pair(*pair) for pair in PAIRS]
    for number, (context, continuation) in enumerate(pairs):
        seen, record = (
            oracle.run(family, model, [*context, *continuation][:-1]),
            lm.captured.record(RequestKey("task", number, 0)),
        )
        assert np.array_equal(record.counts, seen.counts(slice(None), 8))
        np.testing.assert_allclose(record.importance_dense, seen.importance_dense(slice(None)), atol=1e-6)
    lm.set_steering(parse_spec(spec_of([change])))
    found = likelihoods(lm, scored(PAIRS))
    assert found != expected
    for value, pair in zip(found, pairs, strict=True):
        with steered(family, model, [change]):
            assert value == pytest.approx(log_likelihood(model, *pair), abs=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("family", ["dbrx", "gemma4_text", "jetmoe", "longcat_flash"])
def test_quantised_routers_are_refused(family: str, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"(?s)if the model is quantised.*modules_to_not_convert"):
        behind(quantised(family), tokenizer)


def by_torchao(model: Any) -> None:
    # Where it is installed, transformers imports it in every process, which takes seconds: so it is none of them.
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not among the tests' requirements")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())


def by_quanto(model: Any) -> None:
    quanto = pytest.importorskip("optimum.quanto", reason="quanto is not among the tests' requirements")
    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)


@pytest.mark.parametrize("quantise", [by_torchao, by_quanto])
@pytest.mark.parametrize("family", ["gpt_oss", "deepseek_v3", "dbrx", "gemma4_text", "jetmoe"])
def test_weights_that_are_quantised_tensors(family: str, quantise: Any, tokenizer: Any) -> None:
    """The router's linear still multiplies by the one weight, whatever is inside it."""
    model = make(family)
    quantise(model)
    lm, hf = behind(model, tokenizer), HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=300)
    expected = likelihoods(hf, scored(PAIRS))
    assert likelihoods(lm, scored(PAIRS)) == expected
    lm.captured.clear()
    lm.set_steering(steering("mask", [1, 6], guard=True))
    assert likelihoods(lm, scored(PAIRS)) != expected
    assert not any(record.counts[:, [1, 6]].any() for parts in lm.captured.records.values() for record in parts)
    lm.set_steering(None)
    assert likelihoods(lm, scored(PAIRS)) == expected


@pytest.mark.parametrize("family", ["gpt_oss", "dbrx"])
def test_bitsandbytes(family: str, tokenizer: Any, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not among the tests' requirements")
    from transformers import BitsAndBytesConfig

    make(family).save_pretrained(tmp_path)
    config = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    if family == "dbrx":
        with pytest.raises(UserError, match="has no floating-point weight of 8 rows"):
            behind(model, tokenizer)
        return
    hf = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=300)
    assert likelihoods(behind(model, tokenizer), scored(PAIRS)) == likelihoods(hf, scored(PAIRS))
