"""What is put around a model's routers comes off again, does its work, or says that it cannot."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import oracle
from support.hf_cases import PAIRS, build, generated, likelihoods, rolled, scored
from support.small_models import FAMILIES, make_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from lm_eval_moe import HFMoE
from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.routers import RouterListener, find_sites, intercepted
from lm_eval_moe.routers.families.phimoe import PhimoeBlock
from lm_eval_moe.routers.mode import _guarded_logits
from lm_eval_moe.steering import parse_spec

PROMPTS = [context for context, _ in PAIRS]

KINDS: dict[str, Callable[[HFMoE], Any]] = {
    "loglikelihood": lambda lm: lm.loglikelihood(scored(PAIRS), disable_tqdm=True),
    "rolling": lambda lm: lm.loglikelihood_rolling(rolled(PROMPTS), disable_tqdm=True),
    "generate_until": lambda lm: lm.generate_until(generated(PROMPTS), disable_tqdm=True),
}


def steering(action: Any, experts: list[int], **more: Any) -> Any:
    entry = {"layers": "all", "experts": {"ids": {"all": experts}}, "action": action, **more}
    return parse_spec({"version": 1, "interventions": [entry]})


def traces(model: torch.nn.Module) -> list[str]:
    """Return what is left on the modules of a model: forwards of their own, and hooks."""
    found = [name for name, module in model.named_modules() if "forward" in vars(module)]
    for name, module in model.named_modules():
        found += [f"{name}: hook"] * (len(module._forward_pre_hooks) + len(module._forward_hooks))
    if torch.overrides._get_current_function_mode() is not None:
        found.append("function mode")
    return found


class TroubleError(Exception):
    """Raised inside a forward pass."""


def failing(original: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """Return a forward that fails at its n-th call."""
    left = [calls]

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise TroubleError
        return original(*args, **kwargs)

    return forward


# ---------------------------------------------------------------------- clean removal


@pytest.mark.parametrize("part", ["mlp.gate", "mlp.experts", "self_attn"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind_when_a_pass_fails(
    kind: str, part: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it fails: in a router, in the experts, between them; in a prefill or, generating, while decoding."""
    lm = build("qwen3_moe", tokenizer, steering=steering({"soft": 0.7}, [0, 3]), capture="all")
    expected = KINDS[kind](lm)
    assert traces(lm.model) == []
    module = lm.model.model.layers[1].get_submodule(part)
    for calls in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(type(module), "forward", failing(type(module).forward, calls))
            with pytest.raises(TroubleError):
                KINDS[kind](lm)
        assert traces(lm.model) == []
    assert KINDS[kind](lm) == expected


def test_nothing_is_left_behind_when_the_listener_fails(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval_moe.recording import Recorder

    lm = build("gpt_oss", tokenizer)
    expected = KINDS["generate_until"](lm)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "logits", failing(Recorder.logits, 4))
        with pytest.raises(TroubleError):
            KINDS["generate_until"](lm)
    assert traces(lm.model) == []
    assert KINDS["generate_until"](lm) == expected


def test_a_forward_that_was_there_before_is_put_back(tokenizer: Any) -> None:
    """As accelerate sets one on a module; it is called through, too."""
    lm = build("qwen3_moe", tokenizer)
    expected = KINDS["loglikelihood"](lm)
    router = lm.model.model.layers[0].mlp.gate
    calls = []

    def own(*args: Any) -> Any:
        calls.append(args)
        return type(router).forward(router, *args)

    router.forward = own
    assert KINDS["loglikelihood"](lm) == expected
    assert calls
    assert vars(router)["forward"] is own


# ---------------------------------------------------------------------- bypassed routers


def own_routing(block: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A block that multiplies by its router's weight itself."""

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        weights, indices = F.linear(flat, block.gate.weight).softmax(-1).topk(2)
        return block.experts(flat, indices, weights / weights.sum(-1, keepdim=True)).reshape(hidden.shape)

    return forward


def linear_twice(block: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A router that computes its logits anew after the first time."""
    router = block.gate

    def routed(flat: torch.Tensor) -> Any:
        F.linear(flat, router.weight)
        return type(router).forward(router, flat)

    router.forward = routed
    return lambda hidden: type(block).forward(block, hidden)


def no_linear(block: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A router with a kernel of its own."""
    router = block.gate

    def routed(flat: torch.Tensor) -> Any:
        weights, indices = torch.einsum("nh,eh->ne", flat, router.weight).softmax(-1).topk(2)
        return None, weights / weights.sum(-1, keepdim=True), indices

    router.forward = routed
    return lambda hidden: type(block).forward(block, hidden)


def own_experts(block: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A block that asks its router, but computes its experts itself."""
    experts = block.experts

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        _, weights, indices = block.gate(flat)
        return type(experts).forward(experts, flat, indices, weights).reshape(hidden.shape)

    return forward


def looped(block: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A block that the model runs twice in one pass."""
    return lambda hidden: type(block).forward(block, type(block).forward(block, hidden))


BYPASSES = [
    (own_routing, r"the router model\.layers\.1\.mlp\.gate was called 0 times and its experts 1 times"),
    (linear_twice, r"model\.layers\.1\.mlp\.gate \(Qwen3MoeTopKRouter\) multiplied by its own weight 2 times"),
    (no_linear, r"model\.layers\.1\.mlp\.gate \(Qwen3MoeTopKRouter\) multiplied by its own weight 0 times"),
    (own_experts, r"the router model\.layers\.1\.mlp\.gate was called \d+ times and its experts 0 times"),
]


@pytest.mark.parametrize(("bypass", "message"), BYPASSES)
def test_a_bypassed_router_is_found_when_the_model_is_loaded(bypass: Any, message: str, tokenizer: Any) -> None:
    model = make_model("qwen3_moe")
    block = model.model.layers[1].mlp
    block.forward = bypass(block)
    own = {name for name, module in model.named_modules() if "forward" in vars(module)}
    with pytest.raises(RoutingBypassedError, match=message):
        HFMoE(pretrained=model, tokenizer=tokenizer)
    assert {name for name, module in model.named_modules() if "forward" in vars(module)} == own


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("bypass", "message"), BYPASSES)
def test_a_router_bypassed_later_ends_the_run(bypass: Any, message: str, kind: str, tokenizer: Any) -> None:
    lm = build("qwen3_moe", tokenizer, max_length=64)
    block = lm.model.model.layers[1].mlp
    block.forward = bypass(block)
    with pytest.raises(RoutingBypassedError, match=message):
        KINDS[kind](lm)
    assert not lm.captured.records


# What both end with: a token with several routings in a layer would be counted as several tokens.
LOOPED = r"the model is looped: decoder layer {} runs more than once in one forward pass(?s:.*)--model hf"


@pytest.mark.parametrize("layers", [(1,), (0, 1, 2)])
def test_a_looped_model_is_refused_when_it_is_loaded(layers: tuple[int, ...], tokenizer: Any) -> None:
    model = make_model("qwen3_moe")
    for layer in layers:
        block = model.model.layers[layer].mlp
        block.forward = looped(block)
    with pytest.raises(UserError, match=LOOPED.format(layers[0])):
        HFMoE(pretrained=model, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [(1,), (0, 1, 2)])
def test_a_model_that_loops_later_ends_the_run(layers: tuple[int, ...], kind: str, tokenizer: Any) -> None:
    """As one does that loops where it needs to."""
    lm = build("qwen3_moe", tokenizer, max_length=64)
    for layer in layers:
        block = lm.model.model.layers[layer].mlp
        block.forward = looped(block)
    with pytest.raises(UserError, match=LOOPED.format(layers[0])):
        KINDS[kind](lm)
    assert not lm.captured.records


def test_without_capture_and_steering_nothing_is_intercepted(tokenizer: Any) -> None:
    lm = build("qwen3_moe", tokenizer, capture="off")
    expected = KINDS["loglikelihood"](lm)
    block = lm.model.model.layers[1].mlp
    block.forward = own_routing(block)
    np.testing.assert_allclose([v for v, _ in KINDS["loglikelihood"](lm)], [v for v, _ in expected], atol=1e-4)


class Scored(RouterListener):
    """Notes at which calls it was told how logits are scored; forces expert 0 where it is asked to."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.selections: list[torch.Tensor] = []
        self.forces = False

    def scored(self, position: int, how: str | None) -> None:
        assert how == "softmax"
        self.told.append(position)

    def guarded(self, position: int, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        force = torch.zeros_like(logits, dtype=torch.bool)
        force[:, 0] = True
        return (force, torch.zeros_like(force)) if self.forces else None

    def selected(self, position: int, indices: torch.Tensor, weights: torch.Tensor) -> None:
        self.selections.append(indices)


@torch.no_grad()
def test_a_router_that_is_known_is_watched_up_to_its_product_unless_it_is_guarded() -> None:
    model, listener, tokens = make_model("qwen3_moe"), Scored(), torch.tensor([[5, 6, 7, 8]])
    plain = model(tokens).logits
    with intercepted(find_sites(model), listener, top_k=2):
        assert torch.equal(model(tokens).logits, plain)
        assert torch.equal(model(tokens).logits, plain)
        assert listener.told == [0, 1, 2]
        assert all(torch.equal(*pair) for pair in zip(listener.selections[:3], listener.selections[3:], strict=True))
        assert not all((indices == 0).any(-1).all() for indices in listener.selections)
        listener.forces, listener.selections = True, []
        model(tokens)
        assert listener.told == [0, 1, 2] * 2
        assert all((indices == 0).any(-1).all() for indices in listener.selections)


@torch.no_grad()
def test_a_router_of_tensors_with_ways_of_their_own_is_watched_to_its_end_every_time() -> None:
    class Own(torch.Tensor):
        pass

    model, listener, tokens = make_model("qwen3_moe"), Scored(), torch.tensor([[5, 6, 7, 8]])
    model.model.layers[1].mlp.gate.register_forward_pre_hook(lambda _, args: (args[0].as_subclass(Own),))
    with intercepted(find_sites(model), listener, top_k=2):
        for _ in range(3):
            model(tokens)
    assert listener.told == [0, *[1, 2] * 3]  # from there on, the hidden states are of that kind


def test_a_product_with_the_transposed_weight_is_the_routers_linear(tokenizer: Any) -> None:
    """As kolibri1 computes its logits on a GPU."""
    model = make_model("qwen3_moe")
    for layer in model.model.layers:
        router = layer.mlp.gate

        def routed(flat: torch.Tensor, router: Any = router) -> Any:
            logits = torch.mm(flat, router.weight.t())
            weights, indices = logits.softmax(-1).topk(2)
            return logits, weights / weights.sum(-1, keepdim=True), indices

        router.forward = routed
    lm = HFMoE(pretrained=model, tokenizer=tokenizer, capture="all", batch_size=4)
    lm.set_steering(steering("mask", [0, 1, 2, 4, 5, 6]))
    likelihoods(lm, scored(PAIRS))
    for parts in lm.captured.records.values():
        for record in parts:
            assert (record.counts[:, [3, 7]] == record.tokens).all()


# ---------------------------------------------------------------------- models that cannot be steered


@pytest.mark.parametrize("from_disk", [True, False])
@pytest.mark.parametrize(
    ("auto", "config", "message"),
    [
        (
            AutoModelForCausalLM,
            {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2},
            "LlamaForCausalLM has no mixture-of-experts layer that can be intercepted: it is a dense model",
        ),
        (
            AutoModelForSeq2SeqLM,
            {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
            "T5.* is an encoder-decoder model",
        ),
        (
            AutoModelForSeq2SeqLM,
            {"model_type": "switch_transformers", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2,
             "num_heads": 2, "num_experts": 4},
            "SwitchTransformers.* is an encoder-decoder model",
        ),
    ],
)  # fmt: skip
def test_a_model_of_another_kind_is_refused(
    auto: Any, config: dict[str, Any], message: str, from_disk: bool, tokenizer: Any, tmp_path: Any
) -> None:
    sizes = {"vocab_size": 320, "num_attention_heads": 2, "pad_token_id": 0, "decoder_start_token_id": 0}
    made = AutoConfig.for_model(**{**sizes, **config})
    pretrained = auto.from_config(made)
    if from_disk:
        made.save_pretrained(tmp_path)  # no weights: the config alone says it
        pretrained = str(tmp_path)
    with pytest.raises(UserError, match=f"(?s){message}.*--model hf for"):
        HFMoE(pretrained=pretrained, tokenizer=tokenizer)


def test_a_config_of_no_language_model_is_refused(tokenizer: Any, tmp_path: Any) -> None:
    AutoConfig.for_model("clip").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot build a causal language model from CLIPConfig"):
        HFMoE(pretrained=str(tmp_path), tokenizer=tokenizer)


# ---------------------------------------------------------------------- low precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_large_changes_are_finite_in_low_precision(family: str, dtype: torch.dtype, tokenizer: Any) -> None:
    """-1e9 and 1e6 lie outside float16: masked and lifted experts must not overflow."""
    lm = build(family, tokenizer, dtype, capture="all")
    lm.set_steering(steering({"bias": 1e6}, [0, 5]))
    assert np.isfinite(likelihoods(lm, scored(PAIRS))).all()
    lm.captured.clear()
    lm.set_steering(steering("mask", [0, 1, 2, 4, 5, 6]))
    assert np.isfinite(likelihoods(lm, scored(PAIRS))).all()
    for parts in lm.captured.records.values():
        for record in parts:
            assert np.isfinite(record.gate_mass).all()
            assert np.isfinite(record.importance_dense).all()
            if family not in ("deepseek_v2", "deepseek_v3", "ernie4_5_moe"):
                assert record.counts[:, [3, 7]].sum() == record.counts.sum()


# ---------------------------------------------------------------------- the guard


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_guard_forces_and_bans_at_every_token(family: str, dtype: torch.dtype, tokenizer: Any) -> None:
    """As many targets as are selected, in both groups; bans that leave a group fewer than two, or only one group."""
    lm = build(family, tokenizer, dtype, capture="all")
    for action, experts, share in (
        ("activate", [1, 6], 1.0),
        ("activate", [1], 0.5),
        ("mask", [0, 1, 2], 0.0),
        ("mask", [0, 1, 2, 4, 5, 6], 0.0),
        ("deactivate", [4, 5, 6, 7], 0.0),
    ):
        lm.set_steering(steering(action, experts, guard=True))
        lm.captured.clear()
        values = likelihoods(lm, scored(PAIRS))
        assert np.isfinite(values).all()
        for parts in lm.captured.records.values():
            for record in parts:
                assert (record.counts[:, experts].sum(1) == share * 2 * record.tokens).all()
                selected = record.counts > 0
                assert (record.gate_mass[selected] > 0).all(), "an expert selected with weight zero does nothing"
                assert np.isfinite(record.gate_mass).all()


def test_ties_between_guarded_experts_are_broken_as_their_logits_do(tokenizer: Any) -> None:
    """More forced experts than are selected: the guard changes nothing where the logits alone suffice."""
    lm = build("gpt_oss", tokenizer)
    many = [0, 1, 2, 4, 5, 6, 7, 3]
    lm.set_steering(steering("activate", many))
    expected = likelihoods(lm, scored(PAIRS))
    lm.set_steering(steering("activate", many, guard=True))
    assert likelihoods(lm, scored(PAIRS)) == expected


@pytest.mark.parametrize("action", ["activate", "mask", "deactivate"])
@pytest.mark.parametrize("family", ["phimoe", "qwen3_moe"])  # guarded by its logits, and by its scores
def test_the_guard_leaves_alone_what_the_logits_alone_do(family: str, action: str, tokenizer: Any) -> None:
    """Combine weights, too: of Phi-3.5-MoE they depend on which of the two experts has the larger logit."""
    lm = build(family, tokenizer, capture="all")
    seen = []
    for guard in (False, True):
        lm.set_steering(steering(action, [1] if action == "activate" else [0, 1, 2], guard=guard))
        lm.captured.clear()
        values = likelihoods(lm, scored(PAIRS))
        seen.append((values, [record.gate_mass for parts in lm.captured.records.values() for record in parts]))
    assert seen[0][0] == seen[1][0]
    np.testing.assert_array_equal(*(np.stack(masses) for _, masses in seen))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_guarded_logits_move_only_where_the_choice_is_wrong_and_no_further(top_k: int, dtype: torch.dtype) -> None:
    drawn = torch.Generator().manual_seed(0)
    logits = (torch.randn(700, 8, generator=drawn) * 3).to(dtype)
    role = torch.randint(0, 6, (700, 8), generator=drawn)  # most are free
    force, ban = role == 0, role == 1
    logits[::7] = logits[::7].round()  # ties
    guarded = _guarded_logits(logits, force, ban, top_k)
    changed = 0
    for before, after, f, b in zip(logits.double(), guarded.double(), force, ban, strict=True):
        order = after.argsort(descending=True)
        chosen, rest = order[:top_k], order[top_k:]
        assert f[chosen].sum() == min(top_k, int(f.sum()))
        assert b[chosen].sum() == max(0, top_k - int((~b).sum()))
        wrong = (f[rest].any() and (~f[chosen]).any()) or (b[chosen].any() and (~b[rest]).any())
        assert not wrong
        # Ties are another's to break: what is forced or banned is clearly so.
        for inside, outside in ((f, ~f & ~b), (~b, b)):
            if inside[chosen].any() and outside[rest].any():
                assert after[chosen][inside[chosen]].min() > after[rest][outside[rest]].max()
        assert torch.equal(after[~f & ~b], before[~f & ~b])
        own = before.argsort(descending=True)
        gap = float((before[own[top_k - 1]] - before[own[top_k]]).abs())
        right = f[own[:top_k]].sum() == min(top_k, int(f.sum())) and not b[own[:top_k]].any()
        if right and gap > 5 * torch.finfo(dtype).eps * max(1.0, float(before.abs().max())):
            assert torch.equal(after, before)
        changed += not torch.equal(after, before)
        for members in (f, b):  # together, so that their order stays
            moved = (after - before)[members]
            assert members.sum() < 2 or (moved.max() - moved.min()) <= 0.02 * before.abs().max()
    assert 100 < changed < 600


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "ernie4_5_moe"])
def test_forced_experts_get_the_weight_of_their_score(family: str, tokenizer: Any) -> None:
    """By hand: the two forced experts, weighted by the model's own scores as if no group had been left out."""
    lm, plain = build(family, tokenizer, capture="all"), make_model(family)
    layer, experts = 1, [1, 6]
    router = dict(oracle.routers(plain))[layer]
    spec = {"layers": layer, "experts": {"ids": {layer: experts}}, "action": "activate", "guard": True}
    lm.set_steering(parse_spec({"version": 1, "interventions": [spec]}))
    likelihoods(lm, scored(PAIRS))
    for number, (context, continuation) in enumerate(lm._encode_pair(*pair) for pair in PAIRS):
        seen = []
        hook = router.register_forward_pre_hook(lambda _, args, to=seen: to.append(args[0]))
        with torch.no_grad():
            plain(torch.tensor([[*context, *continuation][:-1]]))
        hook.remove()
        with torch.no_grad():
            z = F.linear(seen[0].reshape(-1, 32), router.weight)
        z[:, experts] = z.amax(1, keepdim=True)  # the noise is below the tolerance
        if family == "deepseek_v3":
            weights = z.sigmoid()[:, experts]
            weights = weights / weights.sum(1, keepdim=True) * router.routed_scaling_factor
        else:
            weights = z.softmax(1)[:, experts]
            weights = weights / weights.sum(1, keepdim=True) if family == "ernie4_5_moe" else weights
        record = lm.captured.record(RequestKey("task", number, 0))
        position = lm.routing_shape.layers.index(layer)
        np.testing.assert_allclose(record.gate_mass[position, experts], weights.sum(0), rtol=2e-3)


def test_a_guard_that_cannot_act_is_refused(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a family without a top-k whose adapter does not say that the logits alone decide."""
    monkeypatch.setattr(PhimoeBlock, "guards_logits", False)
    lm = build("phimoe", tokenizer)
    lm.set_steering(steering("activate", [1, 6], guard=True))
    with pytest.raises(UserError, match=r"guard: true has no effect on the router model\.layers\.0\.mlp\.router"):
        likelihoods(lm, scored(PAIRS))
    assert traces(lm.model) == []


def test_a_group_choice_over_all_experts_is_not_mistaken_for_the_final_one(tokenizer: Any) -> None:
    """With one group, deepseek_v3 takes a top-2 over the experts of the group before its top-k of 2."""
    model = make_model("deepseek_v3")
    for _, router in oracle.routers(model):
        router.num_group = 1
    lm = HFMoE(pretrained=model, tokenizer=tokenizer, capture="all", batch_size=4)
    lm.set_steering(steering("activate", [1, 6], guard=True))
    likelihoods(lm, scored(PAIRS))
    for parts in lm.captured.records.values():
        for record in parts:
            assert (record.counts[:, [1, 6]] == record.tokens).all()
