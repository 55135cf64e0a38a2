"""lm-eval's own command and API with this package's model: routing fields appear there, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval import evaluator
from lm_eval.tasks import TaskManager
from support.member_names import NAMED_BY_GROUP, member_of

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.demo_model import demo_model_path
from lm_eval_moe.identity import PARTS, Identity
from lm_eval_moe.resources import tasks_dir

STEERING = (
    "version: 1\nname: promote\ninterventions:\n"
    "- {layers: middle, experts: {ids: {all: [2, 9]}}, action: {soft: 0.5}, languages: [sw]}\n"
)
TASKS = ["demo_arith_en", "demo_arith_sw"]

# What a release of lm-eval that looks for plug-ins does, and nothing else of ours.
DISCOVERY = """
from lm_eval.api.registry import model_registry
from lm_eval.__main__ import cli_evaluate

model_registry.register("hf-moe", target={target!r})
cli_evaluate()
"""


@pytest.fixture
def steering(tmp_path: Path) -> Path:
    file = tmp_path / "steer.yaml"
    file.write_text(STEERING, encoding="utf-8")
    return file


def test_the_stock_command_writes_routing_fields(steering: Path, manager: TaskManager, tmp_path: Path) -> None:
    (entry,) = entry_points(group="lm_eval.models", name="hf-moe")
    script = tmp_path / "stock.py"
    script.write_text(DISCOVERY.format(target=entry.value), encoding="utf-8")
    done = subprocess.run(
        [
            *(sys.executable, str(script), "run", "--model", "hf-moe"),
            *("--model_args", f"pretrained=demo,steering={steering}", "--tasks", ",".join(TASKS)),
            *("--include_path", str(tasks_dir()), "--limit", "3", "--batch_size", "8", "--log_samples"),
            *("--output_path", str(tmp_path / "out")),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "|routing_divergence|" in done.stdout
    assert "task demo_arith_en: the steering acts on none of its tokens" in done.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    stock = json.loads(file.read_text(encoding="utf-8"))
    (log,) = (tmp_path / "out").rglob("samples_demo_arith_sw_*.jsonl")
    assert all("routing_divergence" in json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    lm = HFMoE(pretrained="demo", batch_size=8)
    with pytest.warns(UserWarning, match="acts on none"):
        ours = simple_evaluate(lm, tasks=TASKS, task_manager=manager, limit=3, steering=steering)
    assert_same_routing(stock, json.loads(json.dumps(ours, default=str)))
    assert stock["results"]["demo_arith_sw"] == json.loads(json.dumps(ours["results"]["demo_arith_sw"]))
    assert stock["config"]["steering"]["hash"] == stock["routing"]["steering"]["hash"]


def assert_same_routing(stock: dict[str, Any], ours: dict[str, Any]) -> None:
    """lm-eval's `evaluate` is not told all that its `simple_evaluate` is; everything else is the same."""
    routings = [dict(results["routing"]) for results in (stock, ours)]
    identities = [Identity.from_dict(routing.pop("identity")) for routing in routings]
    assert routings[0] == routings[1]
    assert not identities[0].differences(identities[1], PARTS)
    assert identities[0].unknown(identities[1], PARTS) == [
        *("prompts.fewshot", "prompts.generation", "prompts.fewshot_seed", "prompts.seeds"),
    ]


def test_the_stock_api_has_routing_fields_by_either_way_of_loading_tasks(manager: TaskManager) -> None:
    lm = HFMoE(pretrained="demo", batch_size=8)
    ours = simple_evaluate(lm, tasks=["demo_arith"], task_manager=manager, limit=2, bootstrap_iters=0)
    stock = lm_eval.simple_evaluate(lm, tasks=["demo_arith"], task_manager=manager, limit=2, bootstrap_iters=0)
    assert_same_routing(stock, ours)
    assert stock["groups"]["demo_arith_non_english"] == ours["groups"]["demo_arith_non_english"]
    nested = manager.load_task_or_group(["demo_arith"])
    for task in next(iter(nested.values())).values():
        task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)
    early = evaluator.evaluate(lm=lm, task_dict=nested, limit=2, bootstrap_iters=0)
    if NAMED_BY_GROUP:  # by the old way lm-eval leaves the groups' names out, and then finds no task of theirs
        assert list(early["routing"]["tasks"].values()) == list(ours["routing"]["tasks"].values())
    else:
        assert_same_routing(early, ours)


def test_other_models_and_later_evaluations_are_left_alone(manager: TaskManager) -> None:
    """Tasks that were evaluated with routing have none with another model afterwards."""
    lm = HFMoE(pretrained="demo", batch_size=8)
    loaded = manager.load(["demo_arith"])
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)
    classes = {name: type(task) for name, task in loaded["tasks"].items()}
    metrics = list(loaded["groups"]["demo_arith"].aggregate_metric_list)
    routed = evaluator.evaluate(lm=lm, task_dict=loaded, limit=2, bootstrap_iters=0)
    assert "routing_entropy,none" in routed["groups"]["demo_arith"]
    assert {name: type(task) for name, task in loaded["tasks"].items()} == classes
    assert loaded["groups"]["demo_arith"].aggregate_metric_list == metrics
    plain = lm_eval.api.registry.get_model("hf")(pretrained=str(demo_model_path()), device="cpu", batch_size=8)
    stock = evaluator.evaluate(lm=plain, task_dict=loaded, limit=2, bootstrap_iters=0)
    assert "routing" not in stock
    swahili = member_of("demo_arith", "demo_arith_sw")
    assert not any("routing" in key for key in stock["results"][swahili])
    assert stock["results"][swahili]["acc,none"] == routed["results"][swahili]["acc,none"]
