"""A control belongs to a run by the steering that it matches, not by how many experts it happens to steer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.written_results import BASELINE, STEERED, results_of

from lm_eval_moe.cli import main
from lm_eval_moe.report.controls import gains_of, in_words
from lm_eval_moe.results import LabelledRun, arrange, read_runs
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering import SteeringPlan, load_spec, parse_spec, resolve
from lm_eval_moe.steering.control import random_control

SHAPE = RoutingShape(tuple(range(8)), 16, 2, 8)
CHOSEN: dict[str, Any] = {"layers": [2], "experts": {"ids": {2: [1, 5]}}, "action": {"soft": 0.5}}


def plan_of(**changes: Any) -> SteeringPlan:
    return resolve(parse_spec({"version": 1, "name": "soft", "interventions": [{**CHOSEN, **changes}]}), SHAPE)


def drawn(**changes: Any) -> SteeringPlan:
    """A control as a file says it: with ``random`` around the rule."""
    return plan_of(**{"experts": {"random": {"like": CHOSEN["experts"], "seed": 3}}, **changes})


def gains(control: SteeringPlan, *, recorded: bool = True) -> list[Any]:
    run = plan_of()
    results = []
    for plan, scores in ((None, BASELINE), (run, STEERED), (control, BASELINE)):
        content = results_of(scores)
        if plan is not None:
            steering = plan.to_dict()
            if not recorded:  # as early releases wrote it
                del steering["matching"], steering["control_of"]
            content["routing"]["steering"] = steering
        results.append(content)
    runs = read_runs([LabelledRun(name, content) for name, content in zip("abc", results, strict=True)])
    (benchmark,), _ = arrange(runs)
    return [(gain, in_words(gain, benchmark)) for gain in gains_of(benchmark)]


@pytest.mark.parametrize("control", [random_control(plan_of(), 1), drawn(), drawn(layers="2-2")])
def test_a_control_of_the_very_same_steering_counts(control: SteeringPlan) -> None:
    ((gain, words),) = gains(control)
    assert (gain.draws, gain.controls, gain.checked) == (1, ("c",), True)
    assert "could not be checked" not in words


@pytest.mark.parametrize(
    "changes",
    [
        {"action": {"soft": 0.6}},
        {"action": "mask"},
        {"tokens": "prompt"},
        {"languages": ["sw"]},
        {"action": "mask", "guard": True},
        {"experts": {"random": {"like": {"ids": {2: [1, 6]}}, "seed": 3}}},
    ],
    ids=str,
)
def test_a_control_of_another_steering_does_not(changes: dict[str, Any]) -> None:
    """Each steers two experts of layer 2, as the run does."""
    control = drawn(**changes)
    assert {layer: len(experts) for layer, experts in control.experts_by_layer().items()} == {2: 2}
    assert gains(control) == []


def test_another_seed_for_ties_is_the_same_steering() -> None:
    spec = {"version": 1, "seed": 9, "interventions": [{**CHOSEN, "experts": {"random": {"like": CHOSEN["experts"]}}}]}
    control = resolve(parse_spec(spec), SHAPE)
    assert control.control_of == plan_of().matching
    assert gains(control)


def test_results_that_do_not_name_what_they_control_are_matched_by_number_and_say_so() -> None:
    ((gain, words),) = gains(drawn(tokens="prompt"), recorded=False)
    assert not gain.checked
    assert "Whether these controls are steered in the same way could not be checked" in words


def test_a_control_file_that_lists_its_experts_says_what_it_controls(tmp_path: Path) -> None:
    rule = tmp_path / "rule.yaml"
    rule.write_text(
        "version: 1\nname: soft\nmodel: {layers: 8, experts: 16, top_k: 2}\ninterventions:\n"
        "  - {layers: [2], experts: {ids: {2: [1, 5]}}, action: {soft: 0.5}}\n",
        encoding="utf-8",
    )
    out = tmp_path / "control.yaml"
    shape = ("--model_args", "pretrained=demo")
    assert main(["experts", "--steering", str(rule), "--control", "random", *shape, "--output", str(out)]) == 0
    assert "random" not in str(load_spec(out).interventions[0].experts.name)
    control = resolve(load_spec(out), SHAPE)
    assert control.control_of == plan_of().matching
    ((gain, _),) = gains(control)
    assert gain.checked
