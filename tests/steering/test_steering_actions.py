"""Every action against an independent NumPy version of its formula, and what must not change."""

from __future__ import annotations

import math
import pkgutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from scipy.special import softmax

from lm_eval_moe.errors import UserError
from lm_eval_moe.steering import Action, ActionTargets, actions, parse_spec
from lm_eval_moe.steering.actions._base import SwitchAction, std_logit
from lm_eval_moe.steering.actions.mask import MASKED, masked_experts

TOKENS, EXPERTS = 64, 16


def action(given: Any) -> Action:
    """The action that a steering file's ``action`` names."""
    entry = {"layers": 0, "experts": {"ids": {0: [0]}}, "action": given}
    return parse_spec({"version": 1, "interventions": [entry]}).interventions[0].action


def edited(given: Any, z: float, seen: list[float], s: float, noise: float) -> float:
    """The formula for one token and one expert, in float64; ``seen`` are the token's logits that are not masked."""
    if given == "activate":
        return max(seen) + noise
    if given == "deactivate":
        return min(seen) - abs(noise)
    if given == "activate_log_prob":
        return max(seen) + 0.01
    if given == "deactivate_log_prob":
        return min(seen) - 0.01
    if given == "mask":
        return -1e9
    ((name, strength),) = given.items()
    mean = sum(seen) / len(seen)
    std = math.sqrt(sum((value - mean) ** 2 for value in seen) / len(seen))
    return float(z + strength * {"soft": std, "bias": 1, "proportional": s * abs(z)}[name])


def oracle(given: Any, case: dict[str, Any]) -> NDArray[np.float64]:
    """The formulas for all tokens, one after the other."""
    z, masked = case["z"].astype(np.float64), case["masked"]
    out = z.copy()
    for t, logits in enumerate(z):
        seen = logits[~masked[t]].tolist()
        for i, k in enumerate(case["experts"]):
            if given in ("activate", "activate_log_prob") or not masked[t, k]:
                out[t, k] = edited(given, logits[k], seen, float(case["s"][i]), float(case["noise"][t, i]))
    return out


def drawn(seed: int, *, masks: bool) -> dict[str, Any]:
    """Random logits, targets, coefficients and noise; with ``masks``, up to three experts of a token masked before."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0.5, 2.5, (TOKENS, EXPERTS)).astype(np.float32)
    masked = np.zeros_like(z, dtype=bool)
    if masks:
        for row in masked[::2]:
            row[rng.choice(EXPERTS, 3, replace=False)] = True
        z[masked] = MASKED
    return {
        "z": z,
        "experts": sorted(rng.choice(EXPERTS, 5, replace=False).tolist()),
        "s": rng.uniform(0, 1, 5).astype(np.float32),
        "noise": rng.normal(0, 1e-3, (TOKENS, 5)).astype(np.float32),
        "masked": masked,
    }


def targets(case: dict[str, Any], *, masked: bool = True) -> ActionTargets:
    return ActionTargets(
        torch.tensor(case["experts"]),
        torch.from_numpy(case["s"]),
        torch.from_numpy(case["noise"]),
        torch.from_numpy(case["masked"]) if masked else None,
    )


ACTIONS: list[Any] = [
    {"soft": 0.5},
    {"soft": -1.0},
    "activate",
    "deactivate",
    "mask",
    "activate_log_prob",
    "deactivate_log_prob",
    {"bias": 1.25},
    {"bias": -3},
    {"proportional": 0.022},
    {"proportional": -0.5},
]


@pytest.mark.parametrize("masks", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("given", ACTIONS, ids=str)
def test_an_action_is_its_formula(given: Any, masks: bool) -> None:
    for seed in range(4):
        case = drawn(seed, masks=masks)
        z = torch.from_numpy(case["z"])
        before = z.clone()
        found = action(given).apply(z, targets(case, masked=masks))
        assert found.dtype == torch.float32
        assert torch.equal(z, before)
        np.testing.assert_allclose(found.numpy(), oracle(given, case), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("given", ACTIONS, ids=str)
def test_an_action_leaves_other_experts_bit_identical_and_its_input_alone(given: Any) -> None:
    case = drawn(5, masks=True)
    z = torch.from_numpy(case["z"])
    found = action(given).apply(z, targets(case))
    others = [expert for expert in range(EXPERTS) if expert not in case["experts"]]
    assert found.data_ptr() != z.data_ptr()
    assert torch.equal(found[:, others].view(torch.int32), z[:, others].view(torch.int32))


@pytest.mark.parametrize("given", ACTIONS, ids=str)
def test_a_token_does_not_depend_on_the_rest_of_its_batch(given: Any) -> None:
    case = drawn(6, masks=True)
    z, whole = torch.from_numpy(case["z"]), targets(case)
    found = action(given).apply(z, whole)
    assert whole.noise is not None
    assert whole.masked is not None
    for part in (slice(0, 1), slice(1, 2), slice(3, 20), slice(20, None, 2)):
        masked = whole.masked[part] if whole.masked[part].any() else None
        alone = action(given).apply(
            z[part], ActionTargets(whole.experts, whole.coefficients, whole.noise[part], masked)
        )
        assert torch.equal(alone, found[part])


@pytest.mark.parametrize("name", ["soft", "bias", "proportional"])
@given(
    z=npst.arrays(np.float32, (3, 6), elements=st.floats(width=32)),
    zero=st.sampled_from([0, 0.0, -0.0]),
)
@settings(deadline=None, max_examples=30)
def test_zero_strength_changes_no_bit_whatever_the_logits(name: str, z: NDArray[np.float32], zero: float) -> None:
    logits = torch.from_numpy(z.copy())
    found = action({name: zero}).apply(logits, ActionTargets(torch.tensor([0, 3, 5]), torch.ones(3)))
    assert found.data_ptr() != logits.data_ptr()
    assert np.array_equal(found.numpy().view(np.int32), z.view(np.int32))


def test_a_coefficient_of_zero_changes_no_bit() -> None:
    z = torch.tensor([[-0.0, 1.0, math.inf, 2.0]])
    found = action({"proportional": 0.5}).apply(
        z, ActionTargets(torch.tensor([0, 1, 2]), torch.tensor([0.0, 1.0, 0.0]))
    )
    assert torch.equal(found.view(torch.int32), torch.tensor([[-0.0, 1.5, math.inf, 2.0]]).view(torch.int32))


def test_a_worked_example_of_soft_steering() -> None:
    z = torch.tensor([[1.0, 3.0, 5.0, 7.0]])  # mean 4, population variance (9 + 1 + 1 + 9) / 4 = 5
    found = action({"soft": 0.5}).apply(z, ActionTargets(torch.tensor([0]), torch.ones(1)))
    np.testing.assert_allclose(found.numpy(), [[1 + 0.5 * math.sqrt(5), 3, 5, 7]], rtol=1e-6)


def test_statistics_leave_masked_experts_out() -> None:
    z = torch.tensor([[1.0, 3.0, MASKED, 5.0, 7.0]])
    at = {"experts": torch.tensor([0]), "coefficients": torch.ones(1), "noise": torch.zeros(1, 1)}
    masked = masked_experts(z)
    assert masked.tolist() == [[False, False, True, False, False]]
    assert action("deactivate").apply(z, ActionTargets(**at, masked=masked))[0, 0] == 1.0
    found = action({"soft": 1.0}).apply(z, ActionTargets(**at, masked=masked))
    np.testing.assert_allclose(found[0, 0].item(), 1 + math.sqrt(5), rtol=1e-6)


@given(npst.arrays(np.float32, (5, 48), elements=st.floats(-100, 100, width=32)))
def test_a_spread_with_nobody_masked_is_that_of_an_empty_mask_in_every_bit(logits: NDArray[np.float32]) -> None:
    z = torch.from_numpy(logits)
    plain, empty = std_logit(z, None), std_logit(z, torch.zeros(z.shape, dtype=torch.bool))
    assert plain.numpy().tobytes() == empty.numpy().tobytes()


@pytest.mark.parametrize("given", [each for each in ACTIONS if not str(each).startswith("activate")], ids=str)
def test_a_masked_expert_stays_masked(given: Any) -> None:
    z = torch.tensor([[1.0, MASKED, 4.0]])
    where = ActionTargets(torch.tensor([1]), torch.ones(1), torch.full((1, 1), 0.5), masked_experts(z))
    assert torch.equal(action(given).apply(z, where), z)


@pytest.mark.parametrize(("given", "lifted"), [("activate", 4.5), ("activate_log_prob", 4.0 + 0.01)])
def test_activate_brings_a_masked_expert_back_to_the_top(given: str, lifted: float) -> None:
    z = torch.tensor([[1.0, MASKED, 4.0]])
    where = ActionTargets(torch.tensor([1]), torch.ones(1), torch.full((1, 1), 0.5), masked_experts(z))
    found = action(given).apply(z, where)
    assert found[0].tolist() == pytest.approx([1.0, lifted, 4.0])
    assert not masked_experts(found).any()


def test_a_masked_logit_is_finite_in_bfloat16() -> None:
    assert math.isfinite(torch.tensor(MASKED).to(torch.bfloat16).item())


@pytest.mark.parametrize("name", ["activate", "deactivate"])
def test_an_action_that_needs_noise_says_so(name: str) -> None:
    assert action(name).needs_noise
    with pytest.raises(ValueError, match=f"'{name}' needs noise"):
        action(name).apply(torch.zeros(1, 3), ActionTargets(torch.tensor([0]), torch.ones(1)))


@pytest.mark.parametrize("given", ACTIONS, ids=str)
def test_no_tokens_are_no_trouble(given: Any) -> None:
    where = ActionTargets(torch.tensor([0, 2]), torch.ones(2), torch.zeros(0, 2))
    assert action(given).apply(torch.zeros(0, 4), where).shape == (0, 4)


@pytest.mark.parametrize(("given", "edge"), [("activate_log_prob", np.max), ("deactivate_log_prob", np.min)])
def test_probabilities_are_those_of_edited_log_probabilities(given: str, edge: Any) -> None:
    case = drawn(3, masks=False)
    found = action(given).apply(torch.from_numpy(case["z"]), targets(case, masked=False))
    log_probabilities = np.log(softmax(case["z"].astype(np.float64), axis=1))
    step = 0.01 if given.startswith("activate") else -0.01
    log_probabilities[:, case["experts"]] = edge(log_probabilities, axis=1, keepdims=True) + step
    np.testing.assert_allclose(softmax(found.numpy(), axis=1), softmax(log_probabilities, axis=1), rtol=1e-5)


def test_every_module_of_the_folder_is_one_action() -> None:
    modules = {module.name for module in pkgutil.iter_modules(actions.__path__) if not module.name.startswith("_")}
    assert {each.__module__.rpartition(".")[2] for each in Action.registry.values()} == modules
    assert sorted(Action.registry) == [
        *("activate", "activate_log_prob", "bias", "deactivate", "deactivate_log_prob"),
        *("mask", "proportional", "soft"),
    ]


def test_a_new_action_is_one_class_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Action, "registry", Action.registry.copy())

    @dataclass(frozen=True)
    class Halve(SwitchAction):
        name = "halve"

        def edit(self, logits: torch.Tensor, z: torch.Tensor, targets: ActionTargets) -> torch.Tensor:
            return logits / 2

    found = action("halve").apply(torch.tensor([[4.0, 6.0]]), ActionTargets(torch.tensor([1]), torch.ones(1)))
    assert found.tolist() == [[4.0, 3.0]]
    with pytest.raises(UserError, match="did you mean 'halve'"):
        action("halv")
