"""What is read of a run beside its scores: how it was steered, which documents it evaluated, what is no score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager
from support.written_runs import amend, sha, write_run

from lm_eval_moe import HFMoE
from lm_eval_moe.errors import UserError
from lm_eval_moe.resources import tasks_dir
from lm_eval_moe.results import LabelledRun, Run, read_results
from lm_eval_moe.results.marks import SIGNS, Mark, legend, score_marks, signs_of
from lm_eval_moe.results.setup import unrecorded_choice

SPEC = {
    "version": 1,
    "name": "gentle",
    "interventions": [{"layers": "all", "experts": {"ids": {"all": [0, 1]}}, "action": "activate"}],
}
SCORES = {"en": [1.0, 0.0, 1.0], "sw": [0.0, 0.0, 1.0]}


def run_with(config: dict[str, Any], **results: Any) -> Run:
    return Run(LabelledRun("x", {"results": {"task": {"acc,none": 0.5}}, "config": config, **results}))


def test_a_steered_run_of_lm_evals_own_function_is_labelled_as_steered(tmp_path: Path) -> None:
    """Stock lm-eval evaluates our model class: what the model says of itself is all that there is."""
    file = tmp_path / "gentle.yaml"
    file.write_text(json.dumps(SPEC), encoding="utf-8")
    results = lm_eval.simple_evaluate(
        model=HFMoE(pretrained="demo", batch_size=8, steering=str(file)),
        tasks=["demo_arith_sw"],
        task_manager=TaskManager(include_path=[str(tasks_dir())], include_defaults=False),
        limit=4,
        bootstrap_iters=0,
    )
    assert results is not None
    results.pop("routing", None)
    results.pop("samples")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "results_2026-03-01T10-00-00.000001.json").write_text(json.dumps(results, default=str))
    (labelled,) = read_results([folder])
    run = Run(labelled)
    assert run.steering is not None
    assert run.steering.hash == results["config"]["steering"]["hash"]
    assert run.steering_title == f"gentle #{run.steering.hash[:8]}"
    assert labelled.label == f"{run.model} + gentle"
    assert [mark.kind for mark in score_marks(run, "demo_arith_sw")] == ["leak unknown"]


@pytest.mark.parametrize(
    ("config", "title"),
    [
        ({"model_args": "pretrained=m,steering=configs/soft.yaml"}, "soft.yaml #?"),
        ({"model_args": {"pretrained": "m", "steering": "soft.yaml"}}, "soft.yaml #?"),
        ({"model_args": {"pretrained": "m", "steering": "soft.yaml"}, "steering": None}, ""),
        ({"model_args": "pretrained=m,steering="}, ""),
        ({"model_args": "pretrained=m", "steering": {"name": "s", "hash": "ab" * 32}}, "s #abababab"),
        ({"model_args": "pretrained=m", "steering": {"name": None, "hash": 7}}, "steering #7"),
        ({"model_args": "pretrained=m", "steering": "?"}, ""),
        ({}, ""),
    ],
)
def test_steering_without_a_routing_object_is_what_the_configuration_says(config: dict[str, Any], title: str) -> None:
    assert run_with(config).steering_title == title


def test_a_routing_object_goes_before_the_configuration() -> None:
    config = {"steering": {"name": "s", "hash": "ab"}}
    assert run_with(config, routing={"steering": None, "reference": "en"}).steering is None


def test_bypass_is_no_metric() -> None:
    run = Run(LabelledRun("x", {"results": {"a": {"bypass,none": 999, "bypass_stderr,none": "N/A"}, "b": {}}}))
    assert run.main_metric("a") is None
    assert run.is_unscored("a")
    assert not run.is_unscored("b")
    scored = Run(LabelledRun("x", {"results": {"a": {"bypass,none": 999, "acc,none": 0.5}}}))
    assert not scored.is_unscored("a")
    assert scored.main_metric("a") is not None


def written(path: Path) -> Run:
    (labelled,) = read_results([path])
    return Run(labelled)


def test_recorded_documents_are_told_apart(tmp_path: Path) -> None:
    task, hashes = "mgsm_direct_sw", []
    for name in "ab":
        path = write_run(tmp_path / name, SCORES, steering="s", samples=False)
        assert written(path).task_routing(task).document_hash is None
        assert unrecorded_choice(written(path), task)
        amend(path, tasks={task: {"document_hash": sha(name)}})
        assert not unrecorded_choice(written(path), task)
        hashes.append(written(path).task_routing(task).document_hash)
    assert hashes == [sha("a"), sha("b")]


@pytest.mark.parametrize(
    ("limit", "original", "samples", "unrecorded"),
    [(None, 250, False, True), (3.0, 250, False, False), (None, 3, False, False), (None, 250, True, False)],
)
def test_a_choice_of_documents_is_unrecorded_without_limit_and_log(
    tmp_path: Path, limit: float | None, original: int, samples: bool, unrecorded: bool
) -> None:
    counts = {f"mgsm_direct_{lang}": {"original": original, "effective": 3} for lang in SCORES}
    config = {"model": "hf", "model_args": {"pretrained": "m"}, "limit": limit}
    path = write_run(tmp_path, SCORES, samples=samples, changes={"n-samples": counts, "config": config})
    assert unrecorded_choice(written(path), "mgsm_direct_sw") == unrecorded


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"leak_unknown": 1}, "expected true or false, got 1"),
        ({"leaked_documents": "7"}, "expected a whole number, got '7'"),
        ({"leaked_documents": True}, "expected a whole number, got True"),
        ({"curve_documents": {"divergence": 1.5}}, "expected a whole number, got 1.5"),
        ({"document_hash": 5}, "expected text, got 5"),
    ],
)
def test_facts_of_another_kind_are_refused(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    path = amend(write_run(tmp_path, SCORES, steering="s"), tasks={"mgsm_direct_sw": entry})
    with pytest.raises(UserError, match=message) as caught:
        read_results([path])
    assert caught.value.where.endswith(
        "mgsm_direct_sw." + ".".join([*entry, *(["divergence"] * ("curve" in str(entry)))])
    )


def test_every_kind_of_mark_has_a_sign_of_its_own_and_a_sentence() -> None:
    assert len(set(SIGNS.values())) == len(SIGNS)
    marks = [Mark(kind, "run", "task") for kind in reversed(SIGNS)]
    assert signs_of(marks) == "".join(SIGNS.values())
    assert [text.split(":")[0] for text in legend(marks)] == list(SIGNS.values())
    assert all(text.endswith(": run (task).") for text in legend(marks, signs=False))


def test_long_lists_are_cut_short_and_counted() -> None:
    marks = [Mark("leaked", "run", f"task{number}", number, 60) for number in range(1, 12)]
    (text,) = legend(marks)
    assert text.endswith("8 of 60 in task8 and 3 more).")
