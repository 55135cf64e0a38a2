"""Models altered after they were built: capture and steering act as on the plain model, or the model is refused.

==================================================== ================================================================
alteration                                           outcome
==================================================== ================================================================
kernel in a block's place (MegaBlocks, MXFP4)        refused when loading; put there later, at the first pass
kernel in a router's place, given logits             works; a guard is refused: the kernel's top-k cannot be guarded
kernel in a router's place, given hidden states      refused when loading
``use_kernels=True`` without the package for it      refused by transformers
torch.compile of model, layers, blocks or routers    works; runs eagerly while it is captured or steered
``generate`` that compiles by itself (static cache)  works; does not compile while it is captured or steered
int8 linears, the router's weight a parameter        works
int8 linears, the router's among them, packed        refused when loading
int8 linears, the router's among them, as tensors    works (torchao, quanto)
``load_in_8bit=True``, ``load_in_4bit=True``         refused: transformers 5 takes neither
weights on disk, all or the routers' alone           works; refused where a router takes a weight it has not
all weights offloaded by hand, no device left        refused when loading
``cpu_offload_with_hook``, ``device_map="auto"``     works
another dtype after loading, autocast                works
gradient checkpointing                               works
FSDP2, of layers and model or of routers alone       works
several threads, each with a model                   works
a router's weight that two layers share              works
a router or experts module that two layers share     refused when loading
a parametrised router weight                         refused when loading
a copy put in the model's place                      refused at the first pass
PEFT: anything beside routers and experts            works
PEFT: LoRA on a router's parameter                   works: the logits are those of the weight with its delta
PEFT: LoRA on experts' parameters                    works
PEFT: a trained copy of the router or of its linear  works
PEFT: LoRA, (IA)3 and others on a router's linear    refused when loading; merged into the weight, it works
==================================================== ================================================================

Kernels and torch.compile are here, weights in ``test_altered_weights``, PEFT in ``test_altered_by_peft``.
"""

from __future__ import annotations

from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.altered_models import PROMPTS, STEERINGS, behind, layers_of, make, observed, observed_plain, routers_of
from support.hf_cases import PAIRS, generated, likelihoods, scored
from torch import nn
from transformers import CompileConfig

from lm_eval_moe import HFMoE
from lm_eval_moe.errors import RoutingBypassedError, UserError

# ---------------------------------------------------------------------- kernels


class FusedBlock(nn.Module):
    """A kernel for a whole block of gpt_oss, as MegaBlocks has one: it takes the weights and calls no module."""

    def forward(self: Any, hidden: torch.Tensor) -> Any:
        flat, experts = hidden.reshape(-1, hidden.shape[-1]), self.experts
        top, chosen = F.linear(flat, self.router.weight, self.router.bias).topk(self.router.top_k)
        weights = torch.zeros(len(flat), experts.num_experts).scatter(1, chosen, top.softmax(-1))
        out = torch.zeros_like(flat)
        for e in range(experts.num_experts):
            gate_up = flat @ experts.gate_up_proj[e] + experts.gate_up_proj_bias[e]
            inner = experts._apply_gate(gate_up) @ experts.down_proj[e] + experts.down_proj_bias[e]
            out += weights[:, e : e + 1] * inner
        return out.reshape(hidden.shape), weights


class FusedBlockOfDecoding(FusedBlock):
    """As above, but only where each row has one token."""

    def forward(self: Any, hidden: torch.Tensor) -> Any:
        return (FusedBlock if hidden.shape[1] == 1 else type(self)).forward(self, hidden)


@torch.library.custom_op("test_altered_models::softmax_topk", mutates_args=())
def softmax_topk(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A fused kernel for what comes after the logits."""
    weights, indices = logits.softmax(-1, dtype=torch.float).topk(k)
    return (weights / weights.sum(-1, keepdim=True)).to(logits.dtype), indices


@torch.library.custom_op("test_altered_models::routing", mutates_args=())
def routing(flat: torch.Tensor, weight: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A fused kernel for the whole of a router."""
    logits = flat @ weight.T
    return logits, *softmax_topk(logits, k)


class FusedSelection(nn.Module):
    def forward(self: Any, hidden: torch.Tensor) -> Any:
        logits = F.linear(hidden.reshape(-1, self.hidden_dim), self.weight)
        return logits, *softmax_topk(logits, self.top_k)


class FusedRouter(nn.Module):
    def forward(self: Any, hidden: torch.Tensor) -> Any:
        return routing(hidden.reshape(-1, self.hidden_dim), self.weight, self.top_k)


def kernelize(modules: list[Any], kernel: type[nn.Module]) -> None:
    """Put a kernel's forward in the place of the modules' own, as the ``kernels`` package does."""
    for module in modules:
        module.forward = MethodType(kernel.forward, module)


@pytest.mark.parametrize("replaced", [slice(None), slice(1, 2)], ids=["every layer", "one layer"])
def test_a_kernel_in_the_place_of_blocks_is_refused(replaced: slice, tokenizer: Any) -> None:
    model, tokens = make("gpt_oss"), torch.arange(1, 20)[None]
    lm = behind(model, tokenizer)
    with torch.no_grad():
        expected = model(tokens).logits
        kernelize([layer.mlp for layer in model.model.layers[replaced]], FusedBlock)
        torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(RoutingBypassedError, match=r"router model\.layers\.\d\.mlp\.router .*(?s:.*)use_kernels=True"):
        behind(model, tokenizer)
    for capture, given in (("all", None), ("off", STEERINGS[1])):
        lm.set_capture(capture)
        lm.set_steering(given)
        for run in (
            lambda: lm.loglikelihood(scored(PAIRS), disable_tqdm=True),
            lambda: lm.generate_until(generated(PROMPTS), disable_tqdm=True),
        ):
            with pytest.raises(RoutingBypassedError):
                run()
    assert not lm.captured.records


@pytest.mark.parametrize(("capture", "given"), [("all", None), ("off", STEERINGS[1])])
def test_a_kernel_that_takes_over_for_decoding_is_refused(capture: str, given: Any, tokenizer: Any) -> None:
    """The prefill reaches every router, and no later pass reaches any."""
    model = make("gpt_oss")
    kernelize([layer.mlp for layer in model.model.layers], FusedBlockOfDecoding)
    lm = behind(model, tokenizer, capture=capture, steering=given)
    with pytest.raises(RoutingBypassedError, match="a forward pass called no router"):
        lm.generate_until(generated(PROMPTS), disable_tqdm=True)


def test_a_kernel_that_takes_logits_is_steered(tokenizer: Any) -> None:
    model = make("qwen3_moe")
    kernelize(routers_of("qwen3_moe", model), FusedSelection)
    lm = behind(model, tokenizer)
    *unguarded, guarded = STEERINGS
    assert observed(lm, unguarded) == observed_plain("qwen3_moe", tokenizer)[:-1]
    lm.set_steering(guarded)
    with pytest.raises(UserError, match="guard: true has no effect on the router"):
        likelihoods(lm, scored(PAIRS))


def test_a_kernel_that_takes_hidden_states_is_refused(tokenizer: Any) -> None:
    model = make("qwen3_moe")
    kernelize(routers_of("qwen3_moe", model), FusedRouter)
    with pytest.raises(RoutingBypassedError, match="multiplied by its own weight 0 times"):
        behind(model, tokenizer)


@pytest.mark.parametrize(
    ("argument", "error", "message"),
    [
        ("use_kernels", ValueError, "Kernels are not available"),
        ("load_in_8bit", UserError, "(?s)--model_args load_in_8bit: .*BitsAndBytesConfig"),
        ("load_in_4bit", UserError, "(?s)--model_args load_in_4bit: .*BitsAndBytesConfig"),
    ],
)
def test_arguments_of_loading_are_never_ignored(
    argument: str, error: type[Exception], message: str, tokenizer: Any, tmp_path: Path
) -> None:
    make("gpt_oss").save_pretrained(tmp_path)
    with pytest.raises(error, match=message):
        HFMoE(pretrained=str(tmp_path), tokenizer=tokenizer, **{argument: True})


# ---------------------------------------------------------------------- torch.compile


class Compiler:
    """A backend that runs what it is given as it is, and counts."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, _: Any) -> Any:
        self.graphs += 1
        return graph.forward


def whole(model: Any, backend: Any) -> Any:
    return torch.compile(model, backend=backend)


def in_place(model: Any, backend: Any) -> Any:
    model.compile(backend=backend, fullgraph=True)
    return model


def forward_only(model: Any, backend: Any) -> Any:
    model.forward = torch.compile(model.forward, backend=backend)
    return model


def every_layer(model: Any, backend: Any) -> Any:
    for layer in layers_of(model):
        layer.compile(backend=backend)
    return model


def every_block(model: Any, backend: Any) -> Any:
    for layer in layers_of(model):
        layer.mlp.forward = torch.compile(layer.mlp.forward, backend=backend)
    return model


def every_router(model: Any, backend: Any) -> Any:
    for layer in layers_of(model):
        name = "gate" if hasattr(layer.mlp, "gate") else "router"
        setattr(layer.mlp, name, torch.compile(getattr(layer.mlp, name), backend=backend))
    return model


WAYS = [whole, in_place, forward_only, every_layer, every_block, every_router]


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_model_is_captured_and_steered(way: Any, family: str, tokenizer: Any) -> None:
    """In many batches with changing steering: nothing is compiled, nothing is stale."""
    compiler = Compiler()
    lm = behind(way(make(family), compiler), tokenizer)
    assert observed(lm) == observed_plain(family, tokenizer)
    assert compiler.graphs == 0


@pytest.mark.parametrize("way", [in_place, forward_only, every_layer, every_block])
def test_a_model_compiled_after_loading_is_captured_and_steered(way: Any, tokenizer: Any) -> None:
    lm = behind(make("qwen3_moe"), tokenizer)
    way(lm.model, Compiler())
    assert observed(lm) == observed_plain("qwen3_moe", tokenizer)


@pytest.mark.parametrize("way", WAYS)
def test_a_compiled_model_is_steered_without_capture(way: Any, tokenizer: Any) -> None:
    """With nothing recorded, nothing but the answers would show that steering does not act."""
    lm = behind(way(make("qwen3_moe"), Compiler()), tokenizer, capture="off")
    for given, (values, texts, _) in zip(STEERINGS, observed_plain("qwen3_moe", tokenizer), strict=True):
        if given is not None:
            lm.set_steering(given)
            assert likelihoods(lm, scored(PAIRS[:4])) == values
            assert lm.generate_until(generated(PROMPTS, max_gen_toks=4), disable_tqdm=True) == texts


def test_compiled_code_runs_where_nothing_is_intercepted(tokenizer: Any) -> None:
    """And what it compiled then does not outlive the steering that comes after."""
    compiler = Compiler()
    torch._dynamo.reset()
    lm = behind(every_block(make("qwen3_moe"), compiler), tokenizer)
    for given, (values, _, _) in zip(STEERINGS, observed_plain("qwen3_moe", tokenizer), strict=True):
        lm.set_capture("off" if given is None else "all")
        lm.set_steering(given)
        before = compiler.graphs
        assert likelihoods(lm, scored(PAIRS[:4])) == pytest.approx(values, abs=1e-4)
        if given is not None:
            assert compiler.graphs == before > 0


def test_generation_does_not_compile_by_itself(tokenizer: Any) -> None:
    """As it does with a static cache on a GPU; here, it is asked to do so on the CPU."""
    compiler = Compiler()
    config = CompileConfig(backend=compiler, mode=None, fullgraph=False)
    config._compile_all_devices = True
    arguments = {"cache_implementation": "static", "max_gen_toks": 4}
    lm, reference = behind(make("qwen3_moe"), tokenizer), behind(make("qwen3_moe"), tokenizer)
    for given in STEERINGS:
        lm.set_steering(given)
        reference.set_steering(given)
        texts = lm.generate_until(generated(PROMPTS, **arguments, compile_config=config), disable_tqdm=True)
        assert texts == reference.generate_until(generated(PROMPTS, **arguments), disable_tqdm=True)
    assert compiler.graphs == 0
