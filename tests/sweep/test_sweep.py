"""Sweeps: the file's schema, the cells, resuming after a kill, and the summary against separate evaluations."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.tasks import TaskManager

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.cli import main
from lm_eval_moe.errors import UserError
from lm_eval_moe.resources import steering_configs_dir, tasks_dir
from lm_eval_moe.sweep.cells import cells_of
from lm_eval_moe.sweep.spec import load_sweep

pytestmark = pytest.mark.long

BASE: dict[str, Any] = {
    "version": 1,
    "name": "base",
    "interventions": [
        {"layers": "middle", "experts": {"ids": {"all": [1, 5, 8]}}, "action": {"soft": 0.5}},
    ],
}
GRID = {"interventions.0.layers": ["early", "middle"], "interventions.0.action.soft": [-1.0, 1.0]}


def written(folder: Path, **changes: Any) -> Path:
    sweep = {
        "version": 1,
        "steering": BASE,
        "grid": GRID,
        "tasks": ["demo_arith_en", "demo_arith_zh"],
        "controls": 1,
        "evaluation": {"limit": 8, "batch_size": 16},
        **changes,
    }
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sweep")
    file, out = written(folder), folder / "out"
    assert main(["sweep", str(file), "--model_args", "pretrained=demo", "--output", str(out)]) == 0
    return file, out


def rows_of(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((out / "table.csv").read_text(encoding="utf-8"))))


def test_every_cell_is_what_a_separate_evaluation_gives(finished: tuple[Path, Path]) -> None:
    file, out = finished
    lm = HFMoE(pretrained="demo", batch_size=16)
    manager = TaskManager(include_path=[str(tasks_dir())], include_defaults=False)
    cells, empty = cells_of(load_sweep(file), lm.routing_shape)
    assert len(cells) == 4
    assert not empty
    table = rows_of(out)

    def accuracy(steering: Any) -> dict[str, float]:
        lm.set_steering(steering)
        found = simple_evaluate(lm, tasks=["demo_arith_en", "demo_arith_zh"], task_manager=manager, limit=8)
        by_language = {task[-2:]: scores["acc,none"] for task, scores in found["results"].items()}
        return {**by_language, "mean": (by_language["en"] + by_language["zh"]) / 2}

    baseline = accuracy(None)
    for cell in cells:
        steered, control = accuracy(cell.plan), accuracy(cell.controls[0])
        of_cell = {row["language"]: row for row in table if row["steering_hash"] == cell.plan.hash}
        assert set(of_cell) >= set(baseline)
        for language, score in baseline.items():
            row = of_cell[language]
            assert float(row["baseline"]) == pytest.approx(score)
            assert float(row["gain"]) == pytest.approx(steered[language] - score)
            assert float(row["control_gain"]) == pytest.approx(control[language] - score)
            assert float(row["over_control"]) == pytest.approx(steered[language] - control[language])


def test_tables_and_figures_are_written(finished: tuple[Path, Path]) -> None:
    _, out = finished
    text = (out / "table.md").read_text(encoding="utf-8")
    assert "random control" in text
    assert text.count("| early ") == text.count("| middle") == 6  # two strengths in each of three tables
    assert json.loads((out / "table.json").read_text())["benchmarks"][0]["waiting"] == 0
    assert (out / "gain_demo_arith.png").stat().st_size > 5000
    assert "<svg" in (out / "gain_demo_arith.svg").read_text()
    assert len(list((out / "runs").glob("results_*.json"))) == 1 + 4 + 4


def test_a_second_start_runs_nothing_and_writes_the_same(finished: tuple[Path, Path]) -> None:
    file, out = finished
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted((out / "runs").iterdir())}
    table = (out / "table.json").read_bytes()
    assert main(["sweep", str(file), "--model_args", "pretrained=demo", "--output", str(out)]) == 0
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted((out / "runs").iterdir())} == before
    assert (out / "table.json").read_bytes() == table


def test_a_run_under_another_run_s_name_is_refused(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, out = finished
    copy = shutil.copytree(out, tmp_path / "copy")
    baseline = copy / "runs" / "results_baseline.json"
    other = next(file for file in sorted((copy / "runs").iterdir()) if file != baseline)
    shutil.copy(baseline, other)
    assert main(["sweep", str(spec), "--model_args", "pretrained=demo", "--output", str(copy)]) == 2
    said = capsys.readouterr().err
    assert f"{other}: holds the results of a different steering from the one in its name" in said
    assert f"delete {other}" in said


def test_a_larger_grid_goes_on_in_the_same_folder(finished: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = finished
    before = {path.name: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    file = written(tmp_path, grid={**GRID, "interventions.0.layers": ["early", "middle", "late"]})
    assert main(["sweep", str(file), "--model_args", "pretrained=demo", "--output", str(out)]) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    assert {name: time for name, time in after.items() if name in before} == before
    assert len(after) == 1 + 6 + 6


def test_other_settings_are_refused_with_what_differs(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = finished
    file = written(tmp_path, evaluation={"limit": 9, "batch_size": 16})
    assert main(["sweep", str(file), "--model_args", "pretrained=demo", "--output", str(out)]) == 2
    assert "evaluation.limit was 8, is 9" in capsys.readouterr().err


def test_a_killed_sweep_goes_on_and_ends_with_the_same_numbers(finished: tuple[Path, Path], tmp_path: Path) -> None:
    file, out = finished
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "lm_eval_moe", "sweep", str(file), "--model_args", "pretrained=demo", "--output"]
    process = subprocess.Popen(
        [*command, str(killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(list(killed.glob("runs/results_*.json"))) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in killed.glob("runs/results_*.json")}
    assert 3 <= len(done) < 9
    assert main(["sweep", str(file), "--model_args", "pretrained=demo", "--output", str(killed)]) == 0
    now = {path.name: path.stat().st_mtime_ns for path in killed.glob("runs/results_*.json")}
    assert {name: now[name] for name in done} == done
    assert not list((killed / "unfinished").iterdir())
    wanted = {row["steering_hash"] for row in rows_of(killed)}
    assert rows_of(killed) == [row for row in rows_of(out) if row["steering_hash"] in wanted]


def test_equal_cells_are_evaluated_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, grid={"interventions.0.layers": ["middle", "2-5"]}, controls=0)
    assert main(["sweep", str(file), "--model_args", "pretrained=demo", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "2 cells, 0 random controls each, 2 runs with the baseline" in captured.err
    assert "without random controls no gain can be attributed to the choice of experts" in captured.err


def test_cells_without_experts_are_refused_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: tuple[Path, Path]
) -> None:
    profiles = tmp_path / "profiles"
    for task, name in (("demo_arith_dev_en", "a"), ("demo_text_en", "b")):
        arguments = [
            "profile",
            "--model_args",
            "pretrained=demo",
            "--tasks",
            task,
            "--limit",
            "12",
            "--batch_size",
            "12",
        ]
        assert main([*arguments, "--output", str(profiles / name)]) == 0
    rule = {"profile": "profiles/a/en.safetensors", "baseline": "profiles/b/en.safetensors", "threshold": 0.1}
    steering = {**BASE, "interventions": [{"layers": "all", "experts": {"task": rule}, "action": {"soft": 0.5}}]}
    grid = {"interventions.0.experts.task.threshold": [0.1, 0.99]}
    capsys.readouterr()
    file = written(tmp_path, steering=steering, grid=grid)
    assert main(["sweep", str(file), "--model_args", "pretrained=demo", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "in the cell interventions.0.experts.task.threshold=0.99" in error
    assert "skip_empty: true" in error
    file = written(tmp_path, steering=steering, grid=grid, skip_empty=True)
    assert main(["sweep", str(file), "--model_args", "pretrained=demo", "--dry-run"]) == 0
    captured = capsys.readouterr()
    assert "threshold 0.99  no expert: threshold 0.99 selects no expert" in captured.out
    assert "1 cells, 1 without experts left out" in captured.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "unknown version: 2"),
        ({"tasks": []}, "tasks: the list is empty"),
        ({"grid": {"interventions.0.action.soft": []}}, "the list is empty"),
        ({"grid": {"interventions.0.action.soft": [0.5, 0.5]}}, "a value is given twice"),
        ({"grid": {"0": [0.5]}}, "is not a path"),
        ({"grid": {"interventions.0.action.softt": [0.5]}}, "did you mean 'soft'"),
        ({"grid": {"interventions.3.action.soft": [0.5]}}, "a list of 1"),
        ({"grid": {"seed": list(range(10001))}}, "10001 cells"),
        ({"controls": -1}, "expected an integer"),
        ({"steering": "nowhere.yaml"}, "nowhere.yaml"),
        ({"steering": 3}, "expected a mapping"),
        ({"evaluation": {"limits": 3}}, "did you mean 'limit'"),
        ({"evaluation": {"limit": 0}}, "expected a number"),
        ({"gird": {}}, "did you mean 'grid'"),
        ({"grid": {"interventions.0.layers": ["middle", "40"]}}, "in the cell interventions.0.layers=40"),
    ],
)
def test_a_mistake_in_the_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    file = written(tmp_path, **changes)
    assert main(["sweep", str(file), "--model_args", "pretrained=demo", "--dry-run"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((steering_configs_dir() / "sweeps").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_sweeps_are_well_formed(file: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(file, tmp_path))
    for name in re.findall(r"[\w/]+\.safetensors", file.read_text(encoding="utf-8")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()  # parsing asks whether they are there, not what they hold
    sweep = load_sweep(copy)
    for axis in sweep.axes:
        for value in axis.values:
            sweep.at({axis.key: value})
    assert sweep.controls >= 2


def test_a_folder_with_other_things_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("dear to someone")
    file = written(tmp_path)
    assert main(["sweep", str(file), "--model_args", "pretrained=demo", "--output", str(tmp_path)]) == 2
    assert "does not hold a sweep" in capsys.readouterr().err


def test_a_value_of_several_parts_goes_through_as_it_is(tmp_path: Path) -> None:
    grid = {"interventions.0.action": [{"soft": 0.25}, "activate", {"bias": 1e-05}], "name": ["no", "8: x"]}
    sweep = load_sweep(written(tmp_path, grid=grid))
    spec = sweep.at({"interventions.0.action": {"bias": 1e-05}, "name": "8: x"})
    assert spec.interventions[0].action.dump() == {"bias": 1e-05}
    assert spec.name == "8: x"
    with pytest.raises(UserError):
        sweep.at({"interventions.0.action": {"bias": "x"}})
