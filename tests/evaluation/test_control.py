"""Random controls of a run: what they steer, and the gain over them, through lm-eval's own machinery."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from support.member_names import member_of

from lm_eval_moe import HFMoE, parse_spec, simple_evaluate
from lm_eval_moe.cli import main
from lm_eval_moe.errors import UserError
from lm_eval_moe.evaluation.control import control_count, few_draws
from lm_eval_moe.resources import steering_configs_dir
from lm_eval_moe.statistics import ClusteredValues, judge
from lm_eval_moe.steering import SteeringPlan, resolve
from lm_eval_moe.steering.control import random_control

IDS = {2: {8: 0.5, 3: 0.25}, 4: [5]}
TASKS = ["demo_arith_zh", "demo_arith_sw"]


def spec(experts: dict[str, Any], **changes: Any) -> Any:
    intervention = {"layers": "middle", "experts": experts, "action": {"proportional": 1.0}, **changes}
    return parse_spec({"version": 1, "name": "chosen", "seed": 4, "interventions": [intervention]}, base_dir=Path())


@pytest.fixture(scope="module")
def lm() -> HFMoE:
    return HFMoE(pretrained="demo", batch_size=32)


def plan(lm: HFMoE, experts: dict[str, Any]) -> SteeringPlan:
    return resolve(spec(experts), lm.routing_shape)


def test_a_control_is_what_a_file_with_the_random_rule_gives(lm: HFMoE) -> None:
    control = random_control(plan(lm, {"ids": IDS}), 7)
    by_file = plan(lm, {"random": {"like": {"ids": IDS}, "seed": 7}})
    assert control.hash == by_file.hash
    assert control.spec["interventions"] == by_file.spec["interventions"]
    assert resolve(parse_spec(control.spec, base_dir=Path()), lm.routing_shape).hash == control.hash
    for layer, experts in control.experts_by_layer().items():
        assert len(experts) == len(IDS[layer])
        assert not set(experts) & set(IDS[layer])


def test_a_control_of_a_control_is_refused(lm: HFMoE) -> None:
    with pytest.raises(UserError, match="a control of a control"):
        random_control(plan(lm, {"random": {"like": {"ids": IDS}, "seed": 7}}), 1)


def test_a_layer_with_too_few_other_experts_is_refused(lm: HFMoE) -> None:
    with pytest.raises(UserError, match="only 4 others to draw from"):
        random_control(plan(lm, {"ids": {2: list(range(12))}}), 1)


def test_the_gain_is_that_of_separate_runs(lm: HFMoE, manager: TaskManager) -> None:
    chosen = plan(lm, {"ids": IDS})
    lm.set_steering(chosen)
    found = simple_evaluate(lm, tasks=TASKS, task_manager=manager, limit=30, control="random:2", log_samples=False)
    assert lm.steering is chosen
    assert "samples" not in found
    scores: dict[str, list[list[float]]] = {task: [] for task in TASKS}
    for one in (chosen, random_control(chosen, 1), random_control(chosen, 2)):
        lm.set_steering(one)
        apart = simple_evaluate(lm, tasks=TASKS, task_manager=manager, limit=30)
        for task in TASKS:
            scores[task].append([sample["acc"] for sample in apart["samples"][task]])
    lm.set_steering(None)
    for task, (steered, first, second) in scores.items():
        entry = found["routing"]["control"]["tasks"][task]["acc,none"]
        gain = sum(steered) / 30 - (sum(first) + sum(second)) / 60
        assert entry["steered"] == pytest.approx(sum(steered) / 30)
        assert entry["per_control"] == pytest.approx([sum(first) / 30, sum(second) / 30])
        assert found["results"][task]["acc_gain_over_control,none"] == pytest.approx(gain)
        assert entry["low"] <= gain <= entry["high"]
        assert entry["covers_draws"]
        assert entry["new_draw_low"] <= entry["low"] <= entry["high"] <= entry["new_draw_high"]
        ranked = (1 + sum(of >= entry["steered"] for of in entry["per_control"])) / 3
        assert (entry["rank_p"], entry["least_rank_p"]) == (pytest.approx(ranked), pytest.approx(1 / 3))
    assert found["routing"]["steering"]["hash"] == chosen.hash
    assert found["routing"]["control"]["hashes"] == [random_control(chosen, seed).hash for seed in (1, 2)]


def test_a_group_has_the_gain_of_its_languages_clustered_by_item(lm: HFMoE, manager: TaskManager) -> None:
    lm.set_steering(spec({"ids": {layer: [0, 1, 2, 3, 4, 5] for layer in (2, 3, 4, 5)}}, action="mask"))
    found = simple_evaluate(lm, tasks=["demo_arith"], task_manager=manager, limit=12, control="random:1")
    lm.set_steering(None)
    control = found["routing"]["control"]
    members = [each["acc,none"] for each in control["tasks"].values()]
    of_group = control["groups"]["demo_arith"]["acc,none"]
    assert of_group["gain"] == pytest.approx(sum(each["gain"] for each in members) / 8)
    assert found["groups"]["demo_arith"]["acc_gain_over_control,none"] == of_group["gain"]
    assert of_group["low"] < of_group["high"]
    others = control["groups"]["demo_arith_non_english"]["acc,none"]
    english = control["tasks"][member_of("demo_arith", "demo_arith_en")]["acc,none"]["gain"]
    assert others["gain"] == pytest.approx((sum(each["gain"] for each in members) - english) / 7)
    assert others["low"] < others["high"]
    assert not of_group["covers_draws"]


def test_a_single_control_gives_the_paired_interval(lm: HFMoE, manager: TaskManager) -> None:
    chosen = plan(lm, {"ids": IDS})
    lm.set_steering(chosen)
    found = simple_evaluate(lm, tasks=TASKS[:1], task_manager=manager, limit=40, control="random:1")
    lm.set_steering(random_control(chosen, 1))
    control = simple_evaluate(lm, tasks=TASKS[:1], task_manager=manager, limit=40)
    lm.set_steering(None)
    values = [[s["routing_entropy"] for s in run["samples"][TASKS[0]]] for run in (found, control)]
    assert len(values[0]) == 40
    acc = [[s["acc"] for s in run["samples"][TASKS[0]]] for run in (found, control)]
    entry = found["routing"]["control"]["tasks"][TASKS[0]]["acc,none"]
    judged = judge(ClusteredValues.of([[(i, a - b) for i, (a, b) in enumerate(zip(*acc, strict=True))]]))
    assert (entry["low"], entry["high"]) == pytest.approx(judged.interval or (None, None))
    assert (entry["new_draw_low"], entry["new_draw_high"], entry["new_draw_p"]) == (None, None, None)


@pytest.mark.parametrize("given", ["random:0", "random:", "shuffled:2", "3", "random:-1", "random:1001", "random:2.5"])
def test_other_controls_are_refused(given: str) -> None:
    with pytest.raises(UserError, match="write random:N"):
        control_count(given)


@pytest.mark.parametrize(("count", "least"), [(1, "1 random draw: .* at least 0.5"), (18, "18 random draws: .* 0.053")])
def test_too_few_draws_for_a_rank_p_of_5_per_cent_are_named(count: int, least: str) -> None:
    said = few_draws(count)
    assert said is not None
    assert re.search(least, said)
    assert "0.05 takes 19 (random:19)" in said
    assert few_draws(19) is None


def test_a_control_needs_steering(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        ["run", "--model", "hf-moe", "--model_args", "pretrained=demo", "--tasks", "x", "--control", "random:2"]
    )
    assert code == 2
    assert "give --steering FILE" in capsys.readouterr().err


def test_capture_off_still_says_what_was_steered(manager: TaskManager) -> None:
    lm = HFMoE(
        pretrained="demo", batch_size=32, capture="off", steering=steering_configs_dir() / "demo_task_experts.yaml"
    )
    found = simple_evaluate(lm, tasks=TASKS[:1], task_manager=manager, limit=4, control="random:1")
    assert lm.steering is not None
    assert found["routing"]["steering"]["hash"] == lm.steering.hash
    entry = found["routing"]["tasks"][TASKS[0]]
    assert entry["curves"] == {}
    assert entry["steered_tokens"] > 0
    assert "acc_gain_over_control,none" in found["results"][TASKS[0]]
