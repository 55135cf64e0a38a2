"""The command: fast without torch, with real results of both model types, and one message for a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from support.written_runs import write_run

from lm_eval_moe import load_spec
from lm_eval_moe.cli.main import main

SCORES = {"en": [1.0, 1.0, 0.0, 1.0], "sw": [0.0, 1.0, 0.0, 1.0]}
WATCHED = """
import sys
from lm_eval_moe.cli.main import main
code = main(sys.argv[1:])
loaded = sorted(set(sys.modules) & {"torch", "lm_eval", "transformers", "datasets", "matplotlib", "scipy.stats"})
print("LOADED", loaded)
sys.exit(code)
"""


def test_neither_torch_nor_lm_eval_is_imported(tmp_path: Path) -> None:
    write_run(tmp_path / "a", SCORES)
    write_run(tmp_path / "b", SCORES, steering="soft")
    files = [tmp_path / f"x.{suffix}" for suffix in ("md", "csv", "json", "html")]
    outputs = [argument for file in files for argument in ("--output", str(file))]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "compare", str(tmp_path), *outputs], capture_output=True, text=True, check=True
    )
    assert "LOADED []" in done.stdout
    assert all(file.stat().st_size > 200 for file in files)


def test_help_imports_next_to_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "lm_eval_moe", "compare", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--allow-mismatch" in done.stdout
    for heavy in ("torch", "lm_eval", "numpy", "scipy", "rich", "jinja2"):
        assert f"| {heavy}\n" not in done.stderr.replace("|   ", "| ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "no results in this directory: it is empty"),
        (["{empty}/nothing"], "there is no such file or directory"),
        (["{run}", "--output", "x.pdf"], "'.pdf' belongs to no format"),
        (["{run}", "--alpha", "5"], "5.0 is not a valid level"),
        (["{run}", "--metric", "exact_matsch"], "no task has the metric 'exact_matsch' (did you mean 'exact_match'?)"),
        (["{run}", "--baseline", "x"], "no run is called 'x'"),
        (["{run}", "--tasks", "belebele_*"], "no task matches belebele_*"),
        (["{run}", "--reference", "!!"], "is not a language code"),
        (["={run}"], "lacks a name"),
        (["{cut}"], "is not valid JSON"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    run = write_run(tmp_path / "run", SCORES)
    (tmp_path / "cut.json").write_bytes(run.read_bytes()[:500])
    paths = {"empty": tmp_path / "empty", "run": run, "cut": tmp_path / "cut.json"}
    assert main(["compare", *(argument.format(**paths) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_format_is_printed_and_files_are_written_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", SCORES)
    board = tmp_path / "new" / "board.json"
    assert main(["compare", str(tmp_path / "run"), "--format", "markdown", "--output", str(board)]) == 0
    assert capsys.readouterr().out.startswith("# Leaderboard\n")
    assert json.loads(board.read_text())["schema_version"] == 1


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return results of lm-eval's own model and of ours, plain and steered, written by lm-eval's tracker."""
    from lm_eval.tasks import TaskManager

    from lm_eval_moe import HFMoE
    from lm_eval_moe.demo_model import __path__ as package
    from lm_eval_moe.resources import steering_configs_dir, tasks_dir

    folder = tmp_path_factory.mktemp("real")
    manager = TaskManager(include_path=[str(tasks_dir())], include_defaults=False)
    steering = steering_configs_dir() / "demo_task_experts.yaml"
    lm = HFMoE(pretrained="demo", batch_size=32)
    for _ in range(2):
        _evaluate(folder / "ours", manager, lm)
        lm.set_steering(load_spec(steering, overrides=["interventions.0.action=deactivate"]))
    weights = Path(next(iter(package))) / "weights"
    _evaluate(folder / "stock", manager, "hf", model_args={"pretrained": str(weights)}, batch_size=32, device="cpu")
    return folder


def _evaluate(folder: Path, manager: Any, model: Any, **kwargs: Any) -> None:
    from lm_eval.loggers import EvaluationTracker

    from lm_eval_moe import simple_evaluate

    tracker = EvaluationTracker(output_path=str(folder))
    tasks = ["demo_arith_en", "demo_arith_sw", "demo_arith_tr"]
    results = simple_evaluate(
        model, tasks=tasks, limit=12, task_manager=manager, evaluation_tracker=tracker, log_samples=True, **kwargs
    )
    assert results is not None
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task, of_task in samples.items():
        tracker.save_results_samples(task_name=task, samples=of_task)


def test_real_results_of_both_model_types_stand_in_one_table(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["compare", f"ours={real / 'ours'}", f"stock={real / 'stock'}", "--format", "json"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    runs = list(dict.fromkeys(value["run"] for value in values))
    assert len(runs) == 3
    steered = next(run for run in runs if "demo-task-experts" in run)
    by = {(value["run"], value["column"]): value for value in values}
    assert by["stock", "sw"]["value"] == by["ours: unsteered", "sw"]["value"]  # the same weights, the same answers
    assert by["stock", "routing divergence"]["value"] is None
    assert by[steered, "routing divergence"]["changed"] == 24
    for lang in ("en", "sw", "tr"):
        first, second = (_logged(real / "ours", lang, place) for place in (0, 1))
        change = by[steered, lang]
        assert change["change"] == pytest.approx(sum(second) / 12 - sum(first) / 12)
        better = sum(b > a for a, b in zip(first, second, strict=True))
        worse = sum(b < a for a, b in zip(first, second, strict=True))
        expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
        assert change["p"] == pytest.approx(expected, abs=1e-9)
        assert change["paired"] is True


def _logged(folder: Path, lang: str, place: int) -> list[float]:
    """Return a task's accuracies straight from the log of the first or second date."""
    log = sorted(folder.rglob(f"samples_demo_arith_{lang}_*.jsonl"))[place]
    return [json.loads(line)["acc"] for line in log.read_text(encoding="utf-8").splitlines()]
