"""Every proof holds on real models, and fails on a model or a tool with just the fault that it is there to find."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.doctor.sabotage import (
    BypassedInDecoding,
    ChoosesAnew,
    DriftsFromRunToRun,
    ExpertsInAList,
    FusedRouter,
    ListThatChoosesAnew,
    NoticesCapture,
    NoticesCaptureInDecoding,
    SortsInsteadOfTopK,
    UnknownExperts,
    replace_block,
    replace_router,
)
from support.hf_cases import build, generated
from support.small_models import FAMILIES

from lm_eval_moe import HFMoE
from lm_eval_moe.backends.hf import likelihood
from lm_eval_moe.doctor import Examination, ProofOutcome, examine, render_text
from lm_eval_moe.recording import Forest, GenerationTracker, Recorder
from lm_eval_moe.steering.actions.soft import Soft
from lm_eval_moe.steering.apply import Steerer

PROOFS = [
    "intercepted",
    "capture_identity",
    "selection",
    "capture_counts",
    "padding",
    "batching",
    "zero_strength",
    "effect",
    "reach",
    "generation",
]

# By family: layers that route, dense layers, scoring, groups, selection bias, shared experts; K is 2 and E is 8.
SHAPES: dict[str, tuple[Any, ...]] = {
    "qwen2_moe": ([0, 1, 2], [], "softmax", None, [], ["shared_expert (Qwen2MoeMLP)"]),
    "qwen3_moe": ([0, 1, 2], [], "softmax", None, [], []),
    "olmoe": ([0, 1, 2], [], "softmax", None, [], []),
    "mixtral": ([0, 1, 2], [], "softmax", None, [], []),
    "gpt_oss": ([0, 1, 2], [], "after selection", None, [], []),
    "phimoe": ([0, 1, 2], [], "softmax", None, [], []),
    "deepseek_v2": ([1, 2], [0], "softmax", [2, 1], [], ["shared_experts (DeepseekV2MLP)"]),
    "deepseek_v3": (
        [1, 2],
        [0],
        "sigmoid",
        [2, 1],
        ["gate.e_score_correction_bias"],
        ["shared_experts (DeepseekV3MLP)"],
    ),
    "granitemoe": ([0, 1, 2], [], "after selection", None, [], []),
    "ernie4_5_moe": (
        [1, 2],
        [0],
        "softmax",
        None,
        ["gate.moe_statics.e_score_correction_bias"],
        ["shared_experts (Ernie4_5_MoeMLP)"],
    ),
}


def finding(found: Examination, name: str) -> ProofOutcome:
    (match,) = (each for entry, each in found.findings if entry.name == name)
    return match


def failed(found: Examination) -> list[str]:
    return [entry.name for entry, _ in found.failed]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_all_proofs_hold_and_the_shape_is_right(family: str, tokenizer: Any) -> None:
    lm = build(family, tokenizer)
    started = time.perf_counter()
    found = examine(lm)
    assert time.perf_counter() - started < 10, "a conformance suite runs this for every family"
    assert found.ok, render_text(found)
    assert [entry.name for entry, _ in found.findings] == PROOFS
    assert {each.outcome for _, each in found.findings} == {"pass"}
    layers, dense, scoring, groups, bias, shared = SHAPES[family]
    routing = found.to_dict()["routing"]
    assert routing["shape"]["layers"] == layers
    assert routing["dense_layers"] == dense
    assert (routing["shape"]["experts"], routing["shape"]["top_k"], routing["shape"]["depth"]) == (8, 2, 3)
    assert routing["adapters"] == (["PhimoeBlock"] if family == "phimoe" else ["generic"])
    assert (routing["scoring"], routing["groups"]) == (scoring, groups)
    assert (routing["selection_bias"], routing["shared"]) == (bias, shared)
    assert routing["steering_model_block"] == {"layers": 3, "experts": 8, "top_k": 2}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_exact_too(dtype: torch.dtype, tokenizer: Any) -> None:
    found = examine(build("qwen3_moe", tokenizer, dtype))
    assert found.ok, render_text(found)


def test_a_single_selected_expert_is_no_special_case(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES["qwen3_moe"], "num_experts_per_tok", 1)
    found = examine(build("qwen3_moe", tokenizer))
    assert found.ok, render_text(found)
    assert all(len(row["activated_experts"]) == 1 for row in finding(found, "reach").layers.values())


@pytest.mark.parametrize("size", [1, 2, 3, 64, "auto"])
def test_any_batch_size_will_do(size: Any, tokenizer: Any) -> None:
    lm = build("qwen3_moe", tokenizer, batch_size=size)
    found = examine(lm)
    assert found.ok, render_text(found)
    assert lm.batch_size == size
    assert finding(found, "padding").outcome == ("not applicable" if size == 1 else "pass")
    if size != 1:
        assert finding(found, "padding").details["padding_tokens"] > 0
        assert finding(found, "generation").details["padding_tokens"] > 0


def test_sentences_longer_than_the_model_are_cut(tokenizer: Any) -> None:
    found = examine(build("qwen3_moe", tokenizer, max_length=70))
    assert found.ok, render_text(found)
    assert finding(found, "padding").details["own_tokens"] < 413


def test_the_model_is_left_as_it_was(tokenizer: Any) -> None:
    lm = build("qwen3_moe", tokenizer, capture="continuation")
    steering = lm_steering(lm)
    captured = lm.captured
    hooks = hooks_of(lm.model)
    assert examine(lm).ok
    assert (lm.capture, lm.steering) == ("continuation", steering)
    assert lm.captured is captured
    assert not captured.records
    assert hooks_of(lm.model) == hooks
    assert not any("forward" in vars(module) for module in lm.model.modules())


def lm_steering(lm: Any) -> Any:
    from lm_eval_moe.steering import parse_spec

    intervention = {"layers": "all", "experts": {"ids": {"all": [1]}}, "action": {"soft": 0.5}}
    lm.set_steering(parse_spec({"version": 1, "interventions": [intervention]}))
    return lm.steering


def hooks_of(model: Any) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def test_reach_tells_the_formula_from_the_router(tokenizer: Any) -> None:
    plain, grouped = (examine(build(family, tokenizer)) for family in ("qwen3_moe", "deepseek_v3"))
    shares = finding(plain, "reach").layers
    assert all(row["bias"] == 1 and row["mask"] == 0 for row in shares.values())
    assert 0 < finding(plain, "reach").details["mean"]["activate"] < 1
    (note,) = plain.notes
    assert "That is due to its formula, not to this model" in note
    rows = finding(grouped, "reach").layers
    assert any(row["bias"] < 1 for row in rows.values())
    assert grouped.notes[0].startswith("Write guard: true in steering files for this model")
    assert all(row["activate_guarded"] == 1 and row["mask_guarded"] == 0 for row in rows.values())


# ------------------------------------------------------------------------------------------------ sabotage


def again(lm: Any, tokenizer: Any) -> HFMoE:
    """Load a model object anew, after it was changed."""
    return HFMoE(pretrained=lm.model, tokenizer=tokenizer, batch_size=4, max_length=300)


BROKEN_MODELS: list[tuple[str, Callable[[Any], Any], list[str], str, str]] = [
    (
        "block ignores its router",
        lambda model: replace_block(model, 1, ChoosesAnew),
        ["effect", "reach"],
        "effect",
        "steering layer(s) 1 alone changes no logit; the experts of layer(s) 1 receive a selection other",
    ),
    (
        "bypassed in decoding",
        lambda model: replace_block(model, 2, BypassedInDecoding),
        ["intercepted", "generation"],
        "intercepted",
        "bypassed",
    ),
    (
        "fused router",
        lambda model: replace_router(model, 0, FusedRouter),
        PROOFS,
        "capture_counts",
        "multiplied by its own weight 0 times",
    ),
    (
        "notices capture",
        lambda model: replace_block(model, 1, NoticesCapture),
        ["capture_identity", "zero_strength"],
        "capture_identity",
        "differ from the plain model's, by up to",
    ),
    (
        "notices capture in decoding",
        lambda model: replace_block(model, 1, NoticesCaptureInDecoding),
        ["generation"],
        "generation",
        "capture changes what is generated",
    ),
    (
        "drifts",
        lambda model: replace_block(model, 1, DriftsFromRunToRun),
        ["capture_identity", "zero_strength"],
        "capture_identity",
        "two runs of the plain model differ",
    ),
    (
        "no top-k",
        lambda model: replace_router(model, 1, SortsInsteadOfTopK),
        ["reach"],
        "reach",
        "guard: true has no effect on the router model.layers.1.mlp.gate",
    ),
]


@pytest.mark.parametrize(
    ("sabotage", "expected", "name", "words"), [m[1:] for m in BROKEN_MODELS], ids=[m[0] for m in BROKEN_MODELS]
)
def test_a_broken_model_is_found_out(
    sabotage: Callable[[Any], Any], expected: list[str], name: str, words: str, tokenizer: Any
) -> None:
    lm = build("qwen3_moe", tokenizer)
    sabotage(lm.model)
    found = examine(lm)
    assert not found.ok
    assert set(expected) <= set(failed(found)), render_text(found)
    assert words in finding(found, name).summary
    assert finding(found, name).advice
    text = render_text(found)
    assert "FAILED" in text
    assert "verdict: NOT OK" in text


def test_experts_that_no_adapter_knows_are_not_passed_over(tokenizer: Any) -> None:
    lm = build("qwen3_moe", tokenizer)
    torch.manual_seed(1)
    lm.model.model.layers[1].mlp = UnknownExperts(32, 8)
    found = examine(again(lm, tokenizer))
    assert found.to_dict()["routing"]["uncovered_layers"] == [1]
    assert failed(found) == ["intercepted"]
    assert "layer(s) 1, which have experts but no recognised router" in finding(found, "intercepted").summary
    assert "NOT RECOGNISED" in render_text(found)


@pytest.mark.parametrize("kind", [ExpertsInAList, ListThatChoosesAnew])
def test_a_list_of_experts_is_watched_expert_by_expert(kind: type[ExpertsInAList], tokenizer: Any) -> None:
    lm = build("qwen3_moe", tokenizer)
    torch.manual_seed(1)
    lm.model.model.layers[1].mlp = kind(lm.model.model.layers[1].mlp)
    found = examine(again(lm, tokenizer))
    in_order = kind is ExpertsInAList
    assert found.ok is in_order, render_text(found)
    handed_on = [row["experts_get_what_router_returns"] for row in finding(found, "effect").layers.values()]
    assert handed_on == [True, in_order, True]
    if not in_order:
        assert failed(found) == ["selection", "effect"], "only the experts themselves tell"
        assert {entry.name for entry, _ in found.not_proven} == {"capture_counts", "padding", "reach", "generation"}


def test_wrong_counts_are_found_out(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Recorder.selection

    def shifted(self: Recorder, position: int, indices: torch.Tensor, weights: torch.Tensor) -> None:
        original(self, position, (indices + (position == 1)) % 8, weights)

    monkeypatch.setattr(Recorder, "selection", shifted)
    found = examine(build("qwen3_moe", tokenizer))
    assert failed(found) == ["capture_counts"]
    assert "layer(s) 1" in finding(found, "capture_counts").summary
    assert finding(found, "capture_counts").layers[0]["wrong_counts"] == 0


def test_wrong_weights_are_found_out(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Recorder.selection
    monkeypatch.setattr(
        Recorder, "selection", lambda self, at, indices, weights: original(self, at, indices, weights * 1.0001)
    )
    found = examine(build("qwen3_moe", tokenizer))
    assert failed(found) == ["capture_counts"]
    rows = finding(found, "capture_counts").layers.values()
    assert all(row["wrong_counts"] == 0 and row["wrong_gate_mass"] > 0 for row in rows)


def test_counted_padding_is_found_out(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = likelihood.padded_batch

    def with_padding(forest: Forest, rows: Any, width: int) -> Any:
        segment, paths = original(forest, rows, width)
        last = np.array([[path[-1]] for path in paths])
        return np.where(segment < 0, last, segment), paths

    monkeypatch.setattr(likelihood, "padded_batch", with_padding)
    found = examine(build("qwen3_moe", tokenizer))
    assert "padding" in failed(found)
    assert "tokens were counted, but it has" in finding(found, "padding").summary


def test_a_strength_of_zero_that_changes_a_bit_is_found_out(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Soft, "apply", lambda self, z, targets: z * (1 + 2**-23))
    found = examine(build("qwen3_moe", tokenizer))
    assert failed(found) == ["zero_strength"]
    assert "(soft 0)" in finding(found, "zero_strength").summary


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
def test_a_guard_that_does_nothing_is_found_out(family: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steerer, "guard", lambda self, position, logits: None)
    found = examine(build(family, tokenizer))
    assert failed(found) == ["reach"]
    assert "guarded activate misses tokens" in finding(found, "reach").summary


def test_a_mask_that_does_nothing_is_found_out(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval_moe.steering.actions.mask import Mask

    monkeypatch.setattr(Mask, "apply", lambda self, z, targets: z)
    monkeypatch.setattr(Mask, "guards_by", "force")
    found = examine(build("qwen3_moe", tokenizer))
    assert failed(found) == ["reach"]
    assert "guarded mask leaks" in finding(found, "reach").summary


def test_generated_tokens_that_are_not_counted_are_found_out(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GenerationTracker, "_read", lambda self, row, token: self._readings[row].add(token))
    found = examine(build("qwen3_moe", tokenizer))
    assert failed(found) == ["generation"]
    assert "tokens were counted" in finding(found, "generation").summary


def test_rows_that_end_early_do_not_leave_while_they_are_looked_at(tokenizer: Any) -> None:
    lm = build("qwen3_moe", tokenizer)
    lm.model.generation_config.eos_token_id = list(range(0, 320, 2))  # every other token ends a row
    lm.generate_until(generated(["one", "two"]), disable_tqdm=True)
    assert lm._divides
    found = examine(lm)
    assert failed(found) == []
    assert lm.reuse == "auto"
