"""Hostile results: JSON files and samples logs, as anyone may put them into a folder that is compared."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boundary import hostile, inside
from hypothesis import given
from hypothesis import strategies as st
from mutations import json_bytes, mutated, scalars, spoilt
from written_runs import DATE, write_run

from lm_eval_moe.compare import Settings, build_board, choose_runs
from lm_eval_moe.compare.formats import render
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.report.page import report_html
from lm_eval_moe.report.sources import read_sources
from lm_eval_moe.results import read_results
from lm_eval_moe.results.latest import latest
from lm_eval_moe.results.run import Run
from lm_eval_moe.results.setup import setup_differences

SCORES = {"en": [1.0, 0.0, 1.0, 1.0], "sw": [0.0, 0.0, 1.0, 1.0]}
DIVERGENCE = {"en": [0.0, 0.0, 0.0, 0.0], "sw": [0.1, 0.2, 0.3, 0.2]}


def written(folder: Path) -> Path:
    return write_run(folder, SCORES, steering="hostile", divergence=DIVERGENCE)


def documents() -> list[Any]:
    """Return results JSONs to mutate: stock lm-eval's form, and ours with everything that is read."""
    with tempfile.TemporaryDirectory() as name:
        ours = json.loads(written(Path(name)).read_text())
        plain = json.loads(write_run(Path(name) / "plain", SCORES).read_text())
    routing = ours["routing"]
    routing["model_shape"] = {"layers": [0, 1, 2], "experts": 4, "top_k": 2, "depth": 3}
    routing["model_shape"]["bands"] = {"early": [0], "middle": [1], "late": [2]}
    routing["steering"]["spec"] = {"interventions": [{"experts": {"random": {"seed": 1}}, "action": {"soft": 0.5}}]}
    gain = {"exact_match,flexible-extract": {"gain": 0.1, "stderr": 0.05, "low": 0.0, "high": 0.2}}
    routing["control"] = {"seeds": [1, 2], "tasks": {f"mgsm_direct_{language}": gain for language in SCORES}}
    routing["control"]["groups"] = {"mgsm": gain}
    for entry in routing["tasks"].values():
        entry["curves"] = {"divergence": [0.1, None, 0.3], "entropy": [0.5, 0.5, 0.5]}
    ours["groups"] = {"mgsm": {"exact_match,none": 0.5}}
    ours["group_subtasks"] = {"mgsm": ["mgsm_direct_en", "mgsm_direct_sw"]}
    return [ours, plain]


RESULTS = documents()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder with a good run beside the one that is overwritten, so that there is something to compare."""
    with tempfile.TemporaryDirectory() as name:
        write_run(Path(name) / "baseline", SCORES, model="org/other")
        written(Path(name) / "given")
        yield Path(name)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a good run: Matplotlib makes its folders when it draws for the first time."""
    folder = tmp_path_factory.mktemp("good")
    written(folder)
    return page(folder)


def read_all(paths: list[Path]) -> None:
    """Read everything that compare and report read, and make a leaderboard as `compare` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoutingWarning)
        merged, _ = latest(read_results(paths, warn=lambda text: None))
        runs = [Run(run) for run in merged]
        for run in runs:
            assert run.model
            for task in run.tasks:
                for metric in run.metrics(task):
                    run.score(task, metric)
                    run.higher_is_better(task, metric)
                run.main_metric(task)
                run.divergence(task)
                run.steered_selection(task)
                run.documents(task)
            assert isinstance(run.is_random_control, bool)
            assert isinstance(run.steering_title, str)
            for band in ("early", "middle", "late"):
                run.band(band)
        for run in runs[1:]:
            setup_differences(runs[0], run)
        chosen = choose_runs([str(path) for path in paths])
        board = build_board(chosen.runs, Settings(), notes=chosen.notes)
        for name in ("markdown", "csv", "json", "html"):
            assert render(board, name, title="Leaderboard")


def tried(folder: Path) -> None:
    inside("results", lambda: read_all([folder]))


def test_what_is_mutated_is_valid(folder: Path) -> None:
    for document in RESULTS:
        (folder / "given" / f"results_{DATE}.json").write_text(json.dumps(document))
        read_all([folder])


@given(data=json_bytes(RESULTS))
@hostile(100)
def test_results_files(folder: Path, data: bytes) -> None:
    (folder / "given" / f"results_{DATE}.json").write_bytes(data)
    tried(folder)


def page(folder: Path) -> str:
    """Return the page that `report` makes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoutingWarning)
        sources = read_sources([str(folder)])
        html = report_html(sources.runs, title="Hostile", notes=sources.notes)
    assert html.encode()
    return html


@given(data=json_bytes(RESULTS))
@hostile(5)
def test_reports_on_results_files(folder: Path, drawn: str, data: bytes) -> None:
    assert "<svg" in drawn
    (folder / "given" / f"results_{DATE}.json").write_bytes(data)
    inside("report", lambda: page(folder), cpu_limit=20)


@st.composite
def logs(draw: st.DrawFn, lines: list[str]) -> bytes:
    """Draw a samples log in which something is wrong."""
    samples = [json.loads(line) for line in lines]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(samples) - 1))
        what = draw(st.sampled_from(["mutate", "twice", "drop", "scalar", "value"]))
        if what == "mutate":
            samples[at] = draw(mutated([samples[at]]))
        elif what == "twice":
            samples.insert(at, samples[at])
        elif what == "drop" and len(samples) > 1:
            del samples[at]
        elif what == "value" and isinstance(samples[at], dict):
            samples[at] = {**samples[at], draw(st.sampled_from(["exact_match", "doc_id", "filter"])): draw(scalars)}
        else:
            samples[at] = draw(scalars)
    text = "\n".join(json.dumps(sample, ensure_ascii=draw(st.booleans())) for sample in samples) + "\n"
    return draw(spoilt(text.encode("utf-8", "surrogatepass")))


@given(data=st.data())
@hostile(80)
def test_samples_logs(folder: Path, data: st.DataObject) -> None:
    written(folder / "given")
    log = folder / "given" / f"samples_mgsm_direct_sw_{DATE}.jsonl"
    log.write_bytes(data.draw(logs(log.read_text().splitlines())))
    tried(folder)


@pytest.mark.parametrize("content", [b"", b"\n" * 1000, b"{" * 10_000_000, b"[" * 100_000, b"\xff" * 100, b'{"a": 1}'])
def test_logs_and_results_of_any_content(folder: Path, content: bytes) -> None:
    path = written(folder / "given")
    log = folder / "given" / f"samples_mgsm_direct_sw_{DATE}.jsonl"
    log.write_bytes(content)
    assert isinstance(inside("results", lambda: read_all([folder])), UserError)
    path.write_bytes(content)
    assert isinstance(inside("results", lambda: read_all([folder])), UserError)


@pytest.mark.parametrize("target", [f"results_{DATE}.json", "nowhere", ".", "/dev/null"])
def test_links(folder: Path, target: str) -> None:
    """A link to itself, to nothing, to a folder (which must not be searched for ever), and to a device."""
    path = written(folder / "given")
    link = folder / "given" / f"linked_{DATE}.json"
    link.symlink_to(target)
    try:
        inside("results", lambda: read_all([folder]))
        if target not in (path.name, "."):
            assert isinstance(inside("results", lambda: read_all([link])), UserError)
    finally:
        link.unlink()
