"""From a spec to a plan: layers, experts, random controls, what is refused for a model, and the hash."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lm_eval_moe.errors import UserError
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import LayerTargets, SteeringPlan, parse_spec, resolve
from lm_eval_moe.steering.plan import received_plan, sent_plan

Planned = Callable[..., SteeringPlan]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("8-35", range(8, 36)),
        (12, [12]),
        ("12", [12]),
        ([10, "8", "11-12", 12], [8, 10, 11, 12]),
        ("all", range(48)),
        ("early", range(8)),
        ("middle", range(8, 36)),
        ("late", range(36, 48)),
        (["early", "late"], [*range(8), *range(36, 48)]),
    ],
)
def test_layers_in_every_form(layers: Any, expected: Any, qwen3: RoutingShape, planned: Planned) -> None:
    plan = planned(qwen3, layers=layers, experts={"ids": {"all": [3]}})
    assert list(plan.interventions[0].targets) == list(expected)
    assert plan.experts_by_layer() == {layer: [3] for layer in expected}


def test_ids_keep_their_coefficients_in_ascending_order(deepseek: RoutingShape, planned: Planned) -> None:
    ids = {"2-3": {7: 0.41, "1": 2}, 1: [6, 0], 4: []}
    plan = planned(deepseek, layers="1-4", experts={"ids": ids}, action={"proportional": 0.5})
    assert dict(plan.interventions[0].targets) == {
        1: LayerTargets(1, (0, 6), (1.0, 1.0)),
        2: LayerTargets(2, (1, 7), (2.0, 0.41)),
        3: LayerTargets(3, (1, 7), (2.0, 0.41)),
    }


def test_a_plan_says_what_the_results_file_records(qwen3: RoutingShape) -> None:
    entry = {"layers": "8-9", "experts": {"ids": {8: [3, 17], 9: [0]}}, "action": "activate"}
    other = {"layers": 8, "experts": {"ids": {8: [5]}}, "action": "mask"}
    spec = parse_spec({"version": 1, "name": "two", "source": "a paper", "seed": 4, "interventions": [entry, other]})
    plan = resolve(spec, qwen3)
    assert (plan.name, plan.source, plan.seed, plan.shape) == ("two", "a paper", 4, qwen3)
    assert [each.index for each in plan.interventions] == [0, 1]
    assert json.loads(json.dumps(plan.to_dict())) == {
        "name": "two",
        "hash": plan.hash,
        "spec": spec.to_dict(),
        "experts": {"8": [3, 5, 17], "9": [0]},
        "matching": plan.matching,
        "control_of": None,
    }
    assert len(plan.hash) == 64
    assert plan.short_hash == plan.hash[:16]


@pytest.mark.parametrize("layers", [5, 6])
def test_the_model_block_may_count_moe_layers_or_decoder_layers(layers: int, deepseek: RoutingShape) -> None:
    spec = {
        "version": 1,
        "model": {"layers": layers, "experts": 8, "top_k": 2},
        "interventions": [{"layers": 1, "experts": {"ids": {1: [0]}}, "action": "activate"}],
    }
    assert resolve(parse_spec(spec), deepseek).experts_by_layer() == {1: [0]}


@pytest.mark.parametrize(
    ("model", "where", "problem"),
    [
        ({"layers": 48}, "model.layers", "with layers: 48, but this model has 6 decoder layers, of them MoE 5"),
        ({"experts": 128}, "model.experts", "with experts: 128, but this model has 8"),
        ({"layers": 6, "top_k": 8}, "model.top_k", "with top_k: 8, but this model has 2"),
    ],
)
def test_a_model_of_another_shape_is_refused(
    model: dict[str, int], where: str, problem: str, deepseek: RoutingShape
) -> None:
    entry = {"layers": 1, "experts": {"ids": {1: [0]}}, "action": "activate"}
    spec = parse_spec({"version": 1, "model": model, "interventions": [entry]}, source="steer.yaml")
    with pytest.raises(UserError) as caught:
        resolve(spec, deepseek)
    assert caught.value.where == f"steer.yaml: {where}"
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    ("fields", "path", "problem", "fix"),
    [
        (
            {"layers": 6},
            "layers",
            "layer 6 lies beyond the model's last layer, 5",
            "its MoE layers 1-5 (6 decoder layers",
        ),
        ({"layers": "4-999999"}, "layers", "layer 999999 lies beyond", "1-5"),
        ({"layers": "0-3"}, "layers", "0 is not an MoE layer", "1-5"),
        ({"layers": [1, 0]}, "layers.1", "0 is not an MoE layer", "1-5"),
        (
            {"layers": "2-3", "experts": {"ids": {1: [0], 2: [0]}}},
            "experts.ids.1",
            "do not include 1",
            "layers are 2-3",
        ),
        ({"experts": {"ids": {0: [0]}}}, "experts.ids.0", "0 is not an MoE layer", "1-5"),
        ({"experts": {"ids": {9: [0]}}}, "experts.ids.9", "layer 9 lies beyond", "1-5"),
        ({"experts": {"ids": {1: [7, 8, 9]}}}, "experts.ids.1", "there is no expert 8-9", "8 experts, 0-7"),
        ({"experts": {"ids": {"all": [8]}}}, "experts.ids.all", "there is no expert 8", "8 experts, 0-7"),
        (
            {"experts": {"ids": {"1-3": [0], 2: [1]}}},
            "experts.ids.2",
            "layer 2 is already covered by the key '1-3'",
            "under one key",
        ),
        (
            {"experts": {"random": {"like": {"ids": {1: [0, 1, 2, 3, 4]}}}}},
            "experts.random",
            "layer 1 has 5 matched experts and only 3 others",
            "at most half",
        ),
        (
            {"experts": {"random": {"like": {"ids": {1: [8]}}}}},
            "experts.random.like.ids.1",
            "there is no expert 8",
            "0-7",
        ),
        (
            {"experts": {"ids": {1: list(range(7))}}, "action": "mask"},
            "experts",
            "masking leaves 1 of the 8 experts of layer 1, but the model selects 2",
            "at most 6",
        ),
        (
            {"experts": {"ids": {1: list(range(7))}}, "action": "deactivate", "guard": True},
            "experts",
            "masking leaves 1 of the 8 experts of layer 1",
            "at most 6",
        ),
    ],
)
def test_what_this_model_cannot_do_is_refused(
    fields: dict[str, Any], path: str, problem: str, fix: str, deepseek: RoutingShape
) -> None:
    entry = {"layers": "all", "experts": {"ids": {"all": [0]}}, "action": "activate", **fields}
    spec = parse_spec({"version": 1, "interventions": [entry]}, source="steer.yaml")
    with pytest.raises(UserError) as caught:
        resolve(spec, deepseek)
    assert caught.value.where == f"steer.yaml: interventions.0.{path}"
    assert problem in caught.value.problem
    assert fix in str(caught.value.fix)


def test_a_band_that_a_small_model_lacks_is_an_error(planned: Planned) -> None:
    small = RoutingShape(layers=(1,), experts=4, top_k=1, depth=2)
    with pytest.raises(UserError, match="this model has no early layers"):
        planned(small, layers="early", experts={"ids": {"all": [0]}})


def test_ids_under_all_need_some_layer_with_experts(deepseek: RoutingShape, planned: Planned) -> None:
    with pytest.raises(UserError, match="no experts are given"):
        planned(deepseek, experts={"ids": {"all": []}})


def masks(*entries: dict[str, Any]) -> dict[str, Any]:
    """A spec of interventions that mask experts of layer 1, unless an entry says otherwise."""
    return {"version": 1, "interventions": [{"layers": 1, "action": "mask", **entry} for entry in entries]}


LOW, HIGH = {"ids": {1: [0, 1, 2, 3]}}, {"ids": {1: [4, 5, 6]}}


def test_masks_of_several_interventions_add_up(deepseek: RoutingShape) -> None:
    with pytest.raises(UserError, match=r"interventions.1.experts: masking leaves 1 of the 8 experts of layer 1"):
        resolve(parse_spec(masks({"experts": LOW}, {"experts": HIGH})), deepseek)


@pytest.mark.parametrize(
    "entries",
    [
        [{"experts": LOW, "tokens": "prompt"}, {"experts": HIGH, "tokens": "generated"}],
        [{"experts": LOW, "languages": ["sw"]}, {"experts": HIGH, "languages": {"all_but": ["swh"]}}],
        [{"experts": LOW}, {"experts": LOW, "action": "activate"}, {"experts": HIGH}],
        [{"experts": {"ids": {1: [0, 1, 2, 3, 4, 5]}}}],
        [{"experts": {"ids": {1: list(range(8))}}, "action": "deactivate"}],
        [{"experts": {"ids": {1: list(range(8))}}, "action": "activate"}],
    ],
)
def test_masks_that_never_meet_or_leave_enough_are_allowed(
    entries: list[dict[str, Any]], deepseek: RoutingShape
) -> None:
    assert len(resolve(parse_spec(masks(*entries)), deepseek).interventions) == len(entries)


# Random controls

SETS = st.dictionaries(
    st.integers(0, 47),
    st.dictionaries(st.integers(0, 127), st.floats(-1, 1).map(lambda value: value + 0.0), min_size=1, max_size=64),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(SETS, st.integers(0, 2**63 - 1))
def test_a_random_control_matches_in_number_and_coefficients_and_shares_no_expert(
    ids: dict[int, dict[int, float]], seed: int
) -> None:
    shape = RoutingShape(layers=tuple(range(48)), experts=128, top_k=8, depth=48)
    entry = {"layers": "all", "experts": {"random": {"like": {"ids": ids}, "seed": seed}}}
    entry["action"] = {"proportional": 0.5}
    targets = resolve(parse_spec({"version": 1, "interventions": [entry]}), shape).interventions[0].targets
    assert sorted(targets) == sorted(ids)
    for layer, drawn in targets.items():
        assert not set(drawn.experts) & set(ids[layer])
        assert list(drawn.experts) == sorted(set(drawn.experts))
        assert max(drawn.experts) < 128
        assert Counter(drawn.coefficients) == Counter(ids[layer].values())


def test_a_layers_draw_does_not_depend_on_other_layers(qwen3: RoutingShape, planned: Planned) -> None:
    def control(ids: dict[int, list[int]], seed: int = 1) -> dict[int, list[int]]:
        return planned(qwen3, experts={"random": {"like": {"ids": ids}, "seed": seed}}).experts_by_layer()

    three = list(range(3))
    assert control({8: three})[8] == control({7: three, 8: three, 9: [5]})[8]
    assert control({8: three}) != control({8: three}, seed=2)
    assert len({tuple(found) for found in control(dict.fromkeys(range(48), three)).values()}) > 40


def test_without_a_seed_of_its_own_a_control_takes_the_files(qwen3: RoutingShape, planned: Planned) -> None:
    like = {"like": {"ids": {8: [0, 1, 2]}}}
    own = planned(qwen3, experts={"random": {**like, "seed": 5}}).experts_by_layer()
    assert planned(qwen3, experts={"random": like}, seed=5).experts_by_layer() == own
    assert planned(qwen3, experts={"random": like}, seed=6).experts_by_layer() != own


def test_every_other_expert_is_drawn_equally_often(deepseek: RoutingShape, planned: Planned) -> None:
    drawn: Counter[int] = Counter()
    for seed in range(600):
        control = planned(deepseek, experts={"random": {"like": {"ids": {1: [0, 7]}}, "seed": seed}})
        drawn.update(control.experts_by_layer()[1])
    assert sorted(drawn) == [1, 2, 3, 4, 5, 6]
    assert stats.chisquare(list(drawn.values())).pvalue > 0.001


# The hash

BASE: dict[str, Any] = {"layers": "8-9", "experts": {"ids": {8: [3, 17], 9: {0: 0.5}}}, "action": {"proportional": 0.5}}


def hashed(shape: RoutingShape, *, seed: int = 0, name: str = "x", **fields: Any) -> str:
    """The hash of a spec of one intervention."""
    spec = {"version": 1, "name": name, "seed": seed, "interventions": [{**BASE, **fields}]}
    return resolve(parse_spec(spec), shape).hash


@pytest.mark.parametrize(
    "same",
    [
        {"layers": [8, 9]},
        {"layers": [9, "8"]},
        {"layers": "all"},  # the targets are what counts
        {"experts": {"ids": {"9": {"0": 0.5}, 8: [17, 3]}}},
        {"experts": {"ids": {9: {0: 0.5}, 8: {3: 1, 17: 1.0}, 10: []}}, "layers": "8-10"},
        {"guard": False, "tokens": "all", "languages": "all"},
        {"name": "another name"},
    ],
)
def test_the_hash_does_not_depend_on_the_wording(same: dict[str, Any], qwen3: RoutingShape) -> None:
    assert hashed(qwen3, **same) == hashed(qwen3)


def test_the_hash_does_not_depend_on_the_spelling_of_a_language(qwen3: RoutingShape) -> None:
    assert hashed(qwen3, languages=["swh_Latn", "en"]) == hashed(qwen3, languages=["en", "sw"])


def test_the_hash_changes_with_every_resolved_field(qwen3: RoutingShape) -> None:
    listed = {"experts": {"ids": {8: [3, 17], 9: [0]}}}  # only one action takes coefficients
    activate = {**listed, "action": "activate"}
    variants: list[dict[str, Any]] = [
        {},
        {"seed": 1},
        {"experts": {"ids": {8: [3, 16], 9: {0: 0.5}}}},
        {"experts": {"ids": {8: [3, 17]}}},
        {"experts": {"ids": {8: [3, 17], 9: {0: 0.25}}}},
        {"experts": {"ids": {9: [3, 17], 8: {0: 0.5}}}},
        listed,
        {"action": {"proportional": 0.25}},
        {**listed, "action": {"soft": 0.5}},
        {**listed, "action": {"bias": 0.5}},
        activate,
        {**activate, "guard": True},
        {"tokens": "prompt"},
        {"tokens": "generated"},
        {"languages": ["en"]},
        {"languages": {"all_but": ["en"]}},
        {"languages": ["en", "sw"]},
    ]
    assert len({hashed(qwen3, **variant) for variant in variants}) == len(variants)


def test_the_hash_changes_with_the_order_of_interventions(qwen3: RoutingShape) -> None:
    entries = [BASE, {**BASE, "experts": {"ids": {8: [3]}}, "action": "mask"}]
    forwards, backwards = (
        resolve(parse_spec({"version": 1, "interventions": order}), qwen3).hash for order in (entries, entries[::-1])
    )
    assert forwards != backwards


def test_the_hash_stays_the_same_between_releases(qwen3: RoutingShape) -> None:
    assert hashed(qwen3)[:16] == "430b4b823b8d4363"


# ---------------------------------------------------------------------- sent to another process

SENT = {
    "version": 1,
    "name": "sent",
    "seed": 3,
    "interventions": [
        {
            "layers": "4-5",
            "experts": {"ids": {4: {3: 0.41}, 5: {7: 0.2, 9: 1.5}}},
            "action": {"proportional": 0.1},
            "tokens": "generated",
        },
        {"layers": 2, "experts": {"ids": {2: [0]}}, "action": "mask", "languages": {"all_but": ["en"]}, "guard": True},
        {"layers": 2, "experts": {"ids": {2: [1]}}, "action": {"soft": 0.022}, "languages": ["sw", "zh-Hant"]},
    ],
}


def test_a_plan_that_is_sent_does_the_same_where_it_is_received(qwen3: RoutingShape) -> None:
    plan = resolve(parse_spec(SENT), qwen3)
    received = received_plan(sent_plan(plan), qwen3)
    assert received.interventions == plan.interventions
    assert (received.name, received.seed, received.hash) == (plan.name, plan.seed, plan.hash)


def test_a_plan_that_is_changed_on_its_way_is_refused(qwen3: RoutingShape) -> None:
    text = sent_plan(resolve(parse_spec(SENT), qwen3))
    for own, other in (("0.1", "0.2"), ('"seed": 3', '"seed": 4'), ("[7, 9]", "[7, 8]"), ('"generated"', '"prompt"')):
        assert own in text
        with pytest.raises(ValueError, match="has the hash"):
            received_plan(text.replace(own, other), qwen3)
