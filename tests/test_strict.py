"""Warnings reach the user as lines, also below the table, and with --strict end the command with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from support.demo_runs import task_manager

from lm_eval_moe import HFMoE, parse_spec, simple_evaluate
from lm_eval_moe.cli import main
from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.strict import StrictError

STEERING = (
    "version: 1\nname: x\ninterventions:\n- {layers: middle, experts: {ids: {all: [1, 5]}}, action: {soft: 0.5}%s}\n"
)


@pytest.fixture(autouse=True)
def _closed_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval's log handlers keep the stream of the test that set them up, which pytest has closed by the next one."""
    monkeypatch.setattr("logging.raiseExceptions", False)


def steering(folder: Path, more: str = "") -> Path:
    file = folder / "steer.yaml"
    file.write_text(STEERING % more, encoding="utf-8")
    return file


def run(folder: Path, *arguments: str, tasks: str = "demo_arith_en,demo_arith_sw") -> int:
    common = ["--model", "hf-moe", "--model_args", "pretrained=demo", "--limit", "3", "--batch_size", "8"]
    return main(["run", *common, "--tasks", tasks, "--output_path", str(folder / "out"), *arguments])


def written(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in folder.rglob("results_*.json")]


def test_what_is_known_before_ends_the_run_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("the model was called")

    monkeypatch.setattr(HFMoE, "_model_call", never)
    assert run(tmp_path, "--strict", "--steering", str(steering(tmp_path, ", languages: [fr]"))) == 2
    error = capsys.readouterr().err
    assert "lm-eval-moe: error: --strict: 2 warnings, and strict allows none:" in error
    assert "\n  - task demo_arith_sw: the steering acts on none of its tokens" in error
    assert run(tmp_path, "--strict", tasks="demo_arith_sw") == 2
    assert "\n  - demo_arith_sw has nothing to be compared with" in capsys.readouterr().err
    file = steering(tmp_path)
    assert run(tmp_path, "--strict", "--steering", str(file), "--set", "interventions.0.action.soft=1.5") == 2
    assert "lies outside -1 to 1" in capsys.readouterr().err
    assert run(tmp_path, "--strict", "--steering", str(file), "--set", "interventions.0.action.soft=0") == 2
    assert "has zero strength" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_known_afterwards_loses_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = steering(tmp_path, ", tokens: generated")
    assert run(tmp_path, "--strict", "--steering", str(file), "--log_samples") == 2
    shown = capsys.readouterr()
    assert "|demo_arith_sw|" in shown.out
    (results,) = written(tmp_path)
    assert results["routing"]["tasks"]["demo_arith_sw"]["steered_tokens"] == 0
    assert len(list(tmp_path.rglob("samples_*.jsonl"))) == 2
    for text in results["routing"]["warnings"]:
        assert f"lm-eval-moe: warning: {text}\n" in shown.err
        assert f"\n  - {text}\n" in shown.err


def test_a_run_without_a_warning_is_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--strict", "--steering", str(steering(tmp_path))) == 0
    shown = capsys.readouterr()
    assert "arning: " not in shown.out + shown.err
    (results,) = written(tmp_path)
    assert results["routing"]["warnings"] == []


def test_warnings_are_said_below_the_table_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A leak that was allowed among them; no line of source code is shown."""
    leaking = steering(tmp_path)
    leaking.write_text(f"selected_on: {{demo_arith: {json.dumps(items())}}}\n{leaking.read_text()}", encoding="utf-8")
    assert run(tmp_path, "--steering", str(leaking), "--allow_leak") == 0
    shown = capsys.readouterr()
    table, _, below = shown.out.rpartition("|\n")
    assert "|demo_arith_sw|" in table
    lines = [line for line in below.splitlines() if line and not line.startswith("written: ")]
    said = "2 of its 3 documents are items that experts were selected on: a gain on them means nothing"
    assert lines == [f"Warning: task {task}: {said}" for task in ("demo_arith_en", "demo_arith_sw")]
    for line in lines:
        assert shown.err.count(f"lm-eval-moe: warning: {line.removeprefix('Warning: ')}\n") == 1
    assert "RoutingWarning" not in shown.err
    assert run(tmp_path, "--steering", str(leaking), "--allow_leak", "--strict") == 2


def items() -> list[str]:
    """The keys of two of the three items that a run here evaluates."""
    manager = task_manager()
    documents = list(manager.load(["demo_arith_en"])["tasks"]["demo_arith_en"].eval_docs)
    return [documents[row]["item_id"] for row in (0, 2)]


def test_in_python_the_error_carries_the_results(manager: TaskManager, tmp_path: Path) -> None:
    lm = HFMoE(pretrained="demo", batch_size=8)

    def evaluate(**limits: Any) -> Any:
        entry = {"layers": "middle", "experts": {"ids": {"all": [1, 5]}}, "action": {"soft": 0.5}, **limits}
        spec = parse_spec({"version": 1, "name": "x", "interventions": [entry]}, source="x", base_dir=tmp_path)
        tasks = ["demo_arith_en", "demo_arith_sw"]
        return simple_evaluate(lm, tasks=tasks, task_manager=manager, limit=2, steering=spec, strict=True)

    assert evaluate()["routing"]["warnings"] == []
    with pytest.raises(StrictError, match="languages: fr") as early, pytest.warns(RoutingWarning):
        evaluate(languages=["fr"])
    assert early.value.results is None
    with pytest.raises(StrictError, match="tokens: generated") as late, pytest.warns(RoutingWarning):
        evaluate(tokens="generated")
    assert late.value.results is not None
    assert late.value.results["results"]["demo_arith_sw"]["acc,none"] >= 0
    assert late.value.results["config"]["model"] == "hf-moe"


def test_a_sweep_says_again_what_its_stored_runs_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "version: 1\nname: s\ncontrols: 1\nevaluation: {limit: 2, batch_size: 8}\n"
        "tasks: [demo_arith_en, demo_arith_sw]\n"
        "steering:\n  version: 1\n  name: b\n  interventions:\n"
        "  - {layers: middle, experts: {ids: {all: [1, 5]}}, action: {soft: 0.5}, languages: [sw]}\n"
        "grid: {interventions.0.action.soft: [0.5]}\n",
        encoding="utf-8",
    )
    command = ["sweep", str(file), "--model_args", "pretrained=demo", "--output", str(tmp_path / "out")]
    for strict, code in ([], 0), (["--strict"], 2):  # the second time there is nothing left to run
        assert main([*command, *strict]) == code
        shown = capsys.readouterr()
        assert "Results: " in shown.out
        assert shown.err.count("lm-eval-moe: warning: task demo_arith_en: the steering acts on none of its tokens") == 1
