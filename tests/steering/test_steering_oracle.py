"""Every action equals its formula, applied by hand to a plain transformers model, one unpadded sequence at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support import steered_oracle
from support.hf_cases import CHOICES, PAIRS, build, likelihoods, scored
from support.small_models import FAMILIES, make_model
from support.steered_oracle import Change, log_likelihood, spec_of, steered

from lm_eval_moe import HFMoE
from lm_eval_moe.backends.capturing import Captured, CaptureRequest
from lm_eval_moe.recording import RequestKey
from lm_eval_moe.steering import parse_spec

# Layer 0 of some families is dense, the last one stays as it is.
TARGETS = {1: {1: 1.0, 6: 0.4}}
WEIGHTED = {1: {2: 0.9, 5: -0.5, 7: 0.0}}
ONE = {1: {4: 1.0}}

CASES: dict[str, list[Change]] = {
    "soft promotes": [Change("soft", TARGETS, 0.5)],
    "soft demotes": [Change("soft", TARGETS, -1.0)],
    "activate": [Change("activate", ONE)],
    "deactivate": [Change("deactivate", TARGETS)],
    "mask": [Change("mask", TARGETS)],
    "activate by log-probability": [Change("activate_log_prob", ONE)],
    "deactivate by log-probability": [Change("mask", ONE), Change("deactivate_log_prob", TARGETS)],
    "bias": [Change("bias", TARGETS, 1.5)],
    "proportional": [Change("proportional", WEIGHTED, 0.7)],
    "each on the result of the last": [
        Change("bias", TARGETS, 2.0),
        Change("soft", {1: {6: 1.0, 0: 1.0}}, 0.9),
        Change("proportional", {1: {6: 0.3, 3: 1.0}}, -0.8),
    ],
    "statistics leave masked experts out": [
        Change("mask", TARGETS),
        Change("soft", {1: {6: 1.0, 0: 1.0}}, 0.9),
        Change("deactivate", {1: {2: 1.0}}),
    ],
    "activate brings masked experts back": [Change("mask", TARGETS), Change("activate", {1: {6: 1.0}})],
    "activate does not undo what comes after": [Change("activate", ONE), Change("mask", ONE)],
}

REQUESTS = PAIRS + CHOICES


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request: pytest.FixtureRequest, tokenizer: Any) -> tuple[str, Any, Any, list[float]]:
    """Return a family, our model, a plain one of the same weights, and the likelihoods without steering."""
    family = request.param
    lm = build(family, tokenizer, batch_size=3)
    return family, lm, make_model(family), likelihoods(lm, scored(REQUESTS))


def by_hand(lm: Any, family: str, plain: Any, changes: list[Change], *, keyed: bool) -> tuple[list[float], list[Any]]:
    """Return likelihoods and selections, one request at a time."""
    values, selections = [], []
    for context, continuation in (lm._encode_pair(*pair) for pair in REQUESTS):
        noise = steered_oracle.keyed_noise((context + continuation)[:-1]) if keyed else None
        with steered(family, plain, changes, len(context), noise) as seen:
            values.append(log_likelihood(plain, context, continuation))
        selections.append(seen)
    return values, selections


@pytest.mark.parametrize("name", CASES)
def test_an_action_equals_its_formula(name: str, case: tuple[str, Any, Any, list[float]]) -> None:
    family, lm, plain, unsteered = case
    changes = CASES[name]
    lm.set_steering(parse_spec(spec_of(changes)))
    lm.captured = Captured(CaptureRequest(changes=True))
    values = likelihoods(lm, scored(REQUESTS))
    expected, selections = by_hand(lm, family, plain, changes, keyed=True)
    # A sum of ten log-probabilities has float32 units of 4e-6 itself; which of them depends on the number of threads.
    np.testing.assert_allclose(values, expected, atol=1e-5, rtol=1e-6)
    assert np.abs(np.subtract(values, unsteered)).max() > 0.05, "steering must matter for the test to mean anything"

    position = lm.routing_shape.layers.index(1)
    targets = sorted({expert for change in changes for expert in change.experts[1]})
    for number, seen in enumerate(selections):
        record = lm.captured.record(RequestKey("task", number, 0))
        chosen, plainly = seen.steered[1], seen.plain[1]
        assert record.targeted[position] == len(chosen)
        assert record.hit[position] == np.isin(chosen, targets).any(1).sum()
        assert record.changed[position] == (np.sort(chosen, 1) != np.sort(plainly, 1)).any(1).sum()
        others = np.arange(len(lm.routing_shape.layers)) != position
        assert not record.targeted[others].any()
        assert not record.hit[others].any()
        assert not record.changed[others].any()


@pytest.mark.parametrize(
    ("family", "name"),
    [*(("qwen3_moe", name) for name in (*CASES, "guarded")), ("phimoe", "guarded")],  # by scores, and by logits
)
def test_a_model_in_double_precision_is_steered_alike(family: str, name: str, tokenizer: Any) -> None:
    values = {}
    for dtype in (torch.float32, torch.float64):
        model = make_model(family, dtype=dtype)
        model.set_experts_implementation("eager")  # the other ones take no double precision
        lm = HFMoE(pretrained=model, tokenizer=tokenizer, batch_size=3)
        if name == "guarded":
            spec = spec_of([*CASES["activate"], *CASES["mask"]], guard=True)
        else:
            spec = spec_of(CASES[name])
        lm.set_steering(parse_spec(spec))
        values[dtype] = likelihoods(lm, scored(REQUESTS))
    np.testing.assert_allclose(values[torch.float64], values[torch.float32], atol=1e-4)


# Elsewhere the sign of the noise decides which group wins, or which expert SparseMixer takes first.
@pytest.mark.parametrize("case", ["qwen3_moe", "gpt_oss", "granitemoe"], indirect=True)
@pytest.mark.parametrize("name", ["activate", "deactivate"])
def test_the_noise_only_breaks_ties(name: str, case: tuple[str, Any, Any, list[float]]) -> None:
    """The formulas with ε = 0 differ from those with ε ~ N(0, 1e-6) by what 1e-3 in a logit can do."""
    family, lm, plain, unsteered = case
    lm.set_steering(parse_spec(spec_of(CASES[name])))
    values = likelihoods(lm, scored(REQUESTS))
    expected, _ = by_hand(lm, family, plain, CASES[name], keyed=False)
    np.testing.assert_allclose(values, expected, atol=1e-2)
    assert np.abs(np.subtract(values, unsteered)).max() > 0.05


# Where neither groups nor a selection bias stand between logits and selection: those need `guard`.
@pytest.mark.parametrize(
    "case", ["qwen2_moe", "qwen3_moe", "olmoe", "mixtral", "gpt_oss", "phimoe", "granitemoe"], indirect=True
)
def test_activated_experts_are_selected_at_every_token_and_masked_ones_at_none(
    case: tuple[str, Any, Any, list[float]],
) -> None:
    _, lm, _, _ = case
    lm.set_capture("all")
    position = lm.routing_shape.layers.index(1)
    for name, experts in (("activate", [4]), ("mask", [1, 6]), ("deactivate", [1, 6])):
        lm.set_steering(parse_spec(spec_of(CASES[name])))
        lm.captured.clear()
        likelihoods(lm, scored(REQUESTS))
        for number in range(len(REQUESTS)):
            record = lm.captured.record(RequestKey("task", number, 0))
            assert record.tokens > 0
            assert (record.counts[position, experts] == (record.tokens if name == "activate" else 0)).all()
    lm.set_capture("prompt")
