"""The ``routing`` object: what is written is read again, and its form is that of the place that names its keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lm_eval_moe.errors import UserError
from lm_eval_moe.identity import Identity
from lm_eval_moe.results import LabelledRun, RoutingObject, Run
from lm_eval_moe.results.routing import (
    Control,
    GroupRouting,
    ModelShape,
    ReferenceSource,
    Steering,
    TaskRouting,
    identity_of,
)
from lm_eval_moe.results.schema import check_schema

GAIN = {"gain": 0.1, "stderr": None, "low": None, "high": None}
FULL = RoutingObject(
    schema_version=1,
    lm_eval_moe_version="0.1.0",
    model="org/model",
    model_shape=ModelShape((0, 1), 4, 2, 2, {"early": (0,), "middle": (1,), "late": ()}),
    capture="prompt",
    reference="en",
    steering=Steering(
        "soft", "ab", {"interventions": [{"experts": {"ids": {}}}]}, {"1": (0, 3)}, "cd", None, ({"given": "p"},)
    ),
    warnings=("mind the gap",),
    tasks={
        "t_sw": TaskRouting(
            "sw", "t", "en", 3, "ef", 2, 0, False, 40, 0, {"divergence": 2}, {"divergence": (0.5, None)}
        )
    },
    groups={
        "t": GroupRouting(languages={"sw": ("t_sw",)}, clustered_stderr={"acc,none": 0.1}, partial={"sw": "2 of 3"})
    },
    reference_source=ReferenceSource("profile", "en.safetensors", "12", "org/model"),
    identity=Identity({"model.weights": "abc"}).to_dict(),
    control=Control("random", (1, 2), ("x", "y"), 0.95, {"t_sw": {"acc,none": GAIN}}),
)


def test_what_is_written_is_read_again() -> None:
    written = json.loads(json.dumps(FULL.to_dict()))
    check_schema({"results": {}, "routing": written}, Path("r.json"))
    assert RoutingObject.from_dict(written) == FULL
    assert identity_of({"routing": written}) == Identity({"model.weights": "abc"})


def test_what_does_not_apply_is_left_out_and_what_is_unknown_is_null() -> None:
    unsteered = TaskRouting("sw", "t").to_dict()
    assert "steered_tokens" not in unsteered
    assert "thinking" not in unsteered
    assert unsteered["reference"] is None
    assert TaskRouting(steered_tokens=0).to_dict()["steered_tokens"] == 0, "steering that reached nothing is said"
    assert GroupRouting(why_not="so").to_dict() == {"why_not": "so"}
    assert ReferenceSource("run").to_dict() == {"kind": "run"}
    assert set(FULL.tasks["t_sw"].to_dict()) == set(unsteered) | {"steered_tokens"}


def test_results_without_routing_say_nothing() -> None:
    run = Run(LabelledRun("x", {"results": {"t": {"acc,none": 0.5}}, "routing": None}))
    assert not run.routing.is_said
    assert run.steering is None
    assert run.layers == run.band("middle") == ()
    assert run.task_routing("t") == TaskRouting()
    assert (
        RoutingObject.from_dict({"tasks": {"t": None}, "steering": {"experts": {"1": None}}}).tasks["t"]
        == TaskRouting()
    )


def test_the_reference_was_steered_as_the_run_unless_it_comes_from_a_profile() -> None:
    own = Steering(hash="ab")
    assert RoutingObject(steering=own).reference_steering == "ab"
    assert RoutingObject(steering=own, reference_source=ReferenceSource("run")).reference_steering == "ab"
    assert RoutingObject(steering=own, reference_source=ReferenceSource("profile")).reference_steering is None
    assert RoutingObject(reference_source=ReferenceSource("profile", steering="cd")).reference_steering == "cd"


@pytest.mark.parametrize(
    ("change", "key", "expected"),
    [
        ({"tasks": {"t": {"documents": "3"}}}, "routing.tasks.t.documents", "a whole number"),
        ({"tasks": {"t": {"leak_unknown": 1}}}, "routing.tasks.t.leak_unknown", "true or false"),
        ({"tasks": {"t": {"curves": {"entropy": 0.5}}}}, "routing.tasks.t.curves.entropy", "a list"),
        ({"groups": {"g": {"languages": {"sw": [None]}}}}, "routing.groups.g.languages.sw.0", "text"),
        ({"steering": {"spec": {"interventions": [3]}}}, "routing.steering.spec.interventions.0", "a table"),
        (
            {"control": {"tasks": {"t": {"acc,none": {"gain": "high"}}}}},
            "routing.control.tasks.t.acc,none.gain",
            "a number",
        ),
        ({"warnings": "none"}, "routing.warnings", "a list"),
        ({"identity": {"model": []}}, "routing.identity.model", "a table"),
        ([], "routing", "a table"),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_key(change: Any, key: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_schema({"results": {}, "routing": change}, Path("r.json"))
    assert caught.value.where == f"r.json: {key}"
    assert caught.value.problem.startswith(f"expected {expected}, got ")
