"""A run that captured routing and ends without its fields is an error, and loses no results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pytest
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.cli import main
from lm_eval_moe.errors import FlawedResultsError
from lm_eval_moe.harness.requests import make_request
from lm_eval_moe.resources import tasks_dir
from lm_eval_moe.routing_fields import CURVES, FIELDS, Curve, RoutingField, known

TASKS = ["demo_arith_en", "demo_arith_sw"]
LOST = "task demo_arith_sw: the requests of 3 of its 3 documents did not reach the model under their names"


@pytest.fixture
def manager() -> TaskManager:
    return TaskManager(include_path=[str(tasks_dir())], include_defaults=False)


@pytest.fixture
def _nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a release of lm-eval sent its requests without saying whose they are."""
    score = HFMoE.loglikelihood

    def without_names(self: HFMoE, requests: list[Any], *args: Any, **kwargs: Any) -> Any:
        return score(self, [make_request("loglikelihood", each.args, None, None) for each in requests], *args, **kwargs)

    monkeypatch.setattr(HFMoE, "loglikelihood", without_names)


@pytest.mark.usefixtures("_nameless")
@pytest.mark.filterwarnings("ignore:.*no routing was captured")
def test_records_that_never_came_are_an_error_that_carries_the_results(manager: TaskManager) -> None:
    lm = HFMoE(pretrained="demo", batch_size=8)
    with pytest.raises(FlawedResultsError, match=LOST) as caught:
        simple_evaluate(lm, tasks=TASKS, task_manager=manager, limit=3)
    results = caught.value.results
    assert results is not None
    assert results["results"]["demo_arith_sw"]["acc,none"] >= 0
    assert results["config"]["model"] == "hf-moe"
    with pytest.raises(FlawedResultsError, match=LOST):  # lm-eval's own API
        lm_eval.simple_evaluate(lm, tasks=TASKS, task_manager=manager, limit=3)
    lm.set_capture("off")
    assert simple_evaluate(lm, tasks=TASKS, task_manager=manager, limit=3) is not None


@pytest.mark.usefixtures("_nameless")
def test_the_command_writes_the_results_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--model", "hf-moe", "--model_args", "pretrained=demo", "--limit", "3", "--batch_size", "8"]
    assert main([*command, "--tasks", ",".join(TASKS), "--output_path", str(tmp_path), "--log_samples"]) == 2
    shown = capsys.readouterr()
    assert "|demo_arith_sw|" in shown.out
    assert "lm-eval-moe: error: routing fields: routing was captured, but the results lack fields" in shown.err
    assert LOST in shown.err
    (file,) = tmp_path.rglob("results_*.json")
    assert json.loads(file.read_text(encoding="utf-8"))["results"]["demo_arith_sw"]["acc,none"] >= 0
    assert len(list(tmp_path.rglob("samples_*.jsonl"))) == 2


def test_an_evaluation_past_ours_is_an_error(manager: TaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if lm-eval's `simple_evaluate` evaluated by another function."""
    lm = HFMoE(pretrained="demo", batch_size=8, capture="off")
    monkeypatch.setattr(evaluator, "evaluate", evaluator.evaluate.__wrapped__)
    with pytest.raises(FlawedResultsError, match=r"did not evaluate through lm_eval\.evaluator\.evaluate") as caught:
        simple_evaluate(lm, tasks=TASKS, task_manager=manager, limit=2)
    assert caught.value.results is not None


def test_documents_that_were_not_told_of_are_an_error(manager: TaskManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if lm-eval made a task's requests by another method."""
    lm = HFMoE(pretrained="demo", batch_size=8)
    tasks = manager.load(TASKS)
    for task in tasks["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)
    kind = type(tasks["tasks"]["demo_arith_sw"])
    build = kind.build_all_requests

    class Elsewhere(kind):  # type: ignore[misc, valid-type]
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__("ignored" if name == "build_all_requests" else name, value)

        def __delattr__(self, name: str) -> None:
            super().__delattr__("ignored" if name == "build_all_requests" else name)

    assert build is Elsewhere.build_all_requests
    tasks["tasks"]["demo_arith_sw"].__class__ = Elsewhere
    with pytest.raises(FlawedResultsError, match="task demo_arith_sw: lm-eval scored 3 documents, but announced 0"):
        evaluator.evaluate(lm=lm, task_dict=tasks, limit=3, bootstrap_iters=0)


def test_an_evaluate_that_was_imported_before_the_model_is_refused() -> None:
    """It would give results without routing, and say nothing."""
    code = (
        "from lm_eval.evaluator import evaluate\n"
        "from lm_eval.tasks import TaskManager\n"
        "from lm_eval_moe import HFMoE\n"
        "from lm_eval_moe.resources import tasks_dir\n"
        "manager = TaskManager(include_path=[str(tasks_dir())], include_defaults=False)\n"
        "lm = HFMoE(pretrained='demo', batch_size=4)\n"
        "evaluate(lm, manager.load(['demo_arith_en']), limit=2)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode != 0
    assert "imported before the first routed model was made" in done.stderr


FAILING = {
    "fails: ZeroDivisionError": lambda record, reference, shape: 1 / 0,
    r"has the shape \(1,\), not \(8,\)": lambda record, reference, shape: np.zeros(1),
    "fails: RuntimeError: a record lacks an array": lambda record, reference, shape: known(record.importance_dense),
    "routing_own has no value in any of its 3 documents": lambda record, reference, shape: np.full(8, np.nan),
}


@pytest.mark.parametrize("said", FAILING)
def test_a_field_that_fails_or_has_no_value_is_an_error_that_carries_the_results(
    said: str, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a plug-in's may: all answers are there by then."""
    field = RoutingField("routing_own", Curve("own", FAILING[said], frozenset({"importance"})))
    monkeypatch.setitem(CURVES._entries, "own", field.curve)
    monkeypatch.setitem(FIELDS._entries, field.name, field)
    lm = HFMoE(pretrained="demo", batch_size=8)
    with pytest.raises(FlawedResultsError, match=f"task demo_arith_sw: .*{said}") as caught:
        simple_evaluate(lm, tasks=TASKS, task_manager=manager, limit=3, routing_fields=["routing_own"])
    assert caught.value.results is not None
    assert caught.value.results["results"]["demo_arith_sw"]["acc,none"] >= 0
    assert "routing_own,none" not in caught.value.results["results"]["demo_arith_sw"]
