"""Hostile results: JSON files and samples logs, as anyone may put them into a folder that is compared."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile.boundary import hostile, inside
from support.hostile.mutations import json_bytes, mutated, scalars, spoilt
from support.written_runs import DATE, write_run

from lm_eval_moe.analysis import AnalysisSettings, analyse, read_inputs
from lm_eval_moe.compare import BoardSettings, build_board, choose_runs
from lm_eval_moe.compare.formats import render
from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.gate.check import SideFiles, check, read_side
from lm_eval_moe.gate.collect import task_places
from lm_eval_moe.gate.junit import junit_xml
from lm_eval_moe.gate.markdown import markdown_summary
from lm_eval_moe.gate.policy import load_policy
from lm_eval_moe.gate.table import verdict_table
from lm_eval_moe.identity import Identity
from lm_eval_moe.profiles import ProfileHeader, ProfileItem, write_profile
from lm_eval_moe.report.page import report_html
from lm_eval_moe.report.sources import read_sources
from lm_eval_moe.results import RoutingObject, read_results
from lm_eval_moe.results.latest import latest
from lm_eval_moe.results.run import Run
from lm_eval_moe.results.setup import setup_differences
from lm_eval_moe.results.sweeps import read_sweep
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.sweep.cells import cells_of
from lm_eval_moe.sweep.spec import load_sweep
from lm_eval_moe.sweep.store import BASELINE, RunStore
from lm_eval_moe.sweep.summary import summarise
from lm_eval_moe.sweep.table import csv_table, markdown

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
        board = build_board(chosen.runs, BoardSettings(), notes=chosen.notes)
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


# ---------------------------------------------------------------------- every other command that reads results

SHAPE = RoutingShape((0, 1, 2), 4, 2, 3)
"""The shape of the routed document's model."""

POLICY = "version: 1\nmargins: {language: 0.05, macro: 0.05}\nminimum_items: 2\n"
SWEEP: dict[str, Any] = {
    "version": 1,
    "steering": {
        "version": 1,
        "interventions": [{"layers": "all", "experts": {"ids": {"all": [1]}}, "action": {"soft": 0.5}}],
    },
    "grid": {"interventions.0.action.soft": [0.25]},
    "tasks": ["mgsm_direct_en", "mgsm_direct_sw"],
    "controls": 1,
}
IDENTITY = Identity({"model.weights": "abc"})


def gate(folder: Path) -> None:
    """Judge the given run against the good one, and begin a policy from it."""
    sides = (folder / "baseline", folder / "given")
    policy = load_policy(folder / "policy.yaml")
    for baseline, candidate in (sides, sides[::-1]):
        verdict = check(policy, SideFiles([baseline]), SideFiles([candidate]))
        assert verdict.exit_code in (0, 1, 2)
        assert verdict_table(verdict)
        assert junit_xml(verdict)
        assert markdown_summary(verdict)
    task_places(read_side("baseline", [sides[1]], []).runs)


def profile_analyse(folder: Path) -> None:
    """Correlate the given scores with the divergence of profiles, or say why that cannot be done."""
    profiles = [str(folder / f"{language}.safetensors") for language in ("en", "sw", "de", "fr")]
    path = folder / "given" / f"results_{DATE}.json"
    inputs = read_inputs(profiles, results=[path], settings=AnalysisSettings(resamples=19))
    assert "correlation" in analyse(inputs).text()


def sweep_resume(folder: Path) -> None:
    """Go on with a sweep whose runs are the given one."""
    store = RunStore(folder / "sweep", {}, IDENTITY)
    sweep = load_sweep(folder / "sweep.yaml")
    cells, empty = cells_of(sweep, SHAPE)
    for text in RoutingObject.of(store.read(BASELINE)).warnings:
        assert isinstance(text, str)
    summaries = summarise(cells, empty, store)
    assert csv_table(sweep, summaries)
    if summaries:
        assert markdown(sweep, summaries)


COMMANDS: dict[str, Callable[[Path], None]] = {
    "gate": gate,
    "profile analyse": profile_analyse,
    "sweep resume": sweep_resume,
}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good run beside the one that is overwritten, with what the other commands need beside results."""
    folder = tmp_path_factory.mktemp("commands")
    write_run(folder / "baseline", SCORES, model="org/other")
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "sweep.yaml").write_text(json.dumps(SWEEP))
    generator = np.random.default_rng(0)
    for language in ("en", "sw", "de", "fr"):
        importance = generator.dirichlet([1.0] * SHAPE.experts, (3, len(SHAPE.layers))).astype(np.float32)
        items = [ProfileItem("news", f"n{number}", language, f"news_{language}") for number in range(3)]
        arrays = {
            "counts": np.floor(importance * 50).astype(np.int32),
            "gate_mass": importance,
            "importance": importance,
            "tokens": np.full(3, 50, dtype=np.int64),
        }
        write_profile(folder / f"{language}.safetensors", ProfileHeader("m", SHAPE, "prompt"), items, arrays)
    RunStore(folder / "sweep", {}, IDENTITY)
    (folder / "sweep" / "runs").mkdir()
    return folder


def give(folder: Path, data: bytes) -> None:
    """Put the bytes where every command looks for results: in a sweep, as a run of the steering that it should have."""
    written(folder / "given")
    (folder / "given" / f"results_{DATE}.json").write_bytes(data)
    steering = RESULTS[0]["routing"]["steering"]["hash"].encode()
    store = RunStore(folder / "sweep", {}, IDENTITY)
    cells, _ = cells_of(load_sweep(folder / "sweep.yaml"), SHAPE)
    for name in (BASELINE, *(plan.hash for cell in cells for plan in (cell.plan, *cell.controls))):
        store.path(name).write_bytes(data.replace(steering, name.encode()))


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_mutated_is_valid_for_every_command(commands: Path, name: str) -> None:
    for document in RESULTS[:1] if name == "sweep resume" else RESULTS:  # lm-eval's own are no cell of a sweep
        give(commands, json.dumps(document).encode())
        COMMANDS[name](commands)


@pytest.mark.parametrize("name", COMMANDS)
@given(data=json_bytes(RESULTS))
@hostile(40)
def test_every_command_that_reads_results(commands: Path, name: str, data: bytes) -> None:
    give(commands, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoutingWarning)
        inside(name, lambda: COMMANDS[name](commands))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{" * 10_000_000, b"[" * 100_000, b"\xff" * 100, b'{"a": 1}', b'{"results": {"a": 1}}']
)
def test_every_command_refuses_what_holds_no_results(commands: Path, name: str, content: bytes) -> None:
    give(commands, content)
    assert isinstance(inside(name, lambda: COMMANDS[name](commands)), UserError)


def with_identity(**parts: Any) -> bytes:
    """Return the good results with an identity of these groups."""
    document = json.loads(json.dumps(RESULTS[0]))
    document["routing"]["identity"] = {**IDENTITY.to_dict(), **parts}
    return json.dumps(document).encode()


@pytest.mark.filterwarnings("ignore::lm_eval_moe.errors.RoutingWarning")
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "groups",
    [
        *({group: None} for group in ("model", "prompts", "steering", "capture", "computation", "versions", "tasks")),
        {"tasks": {"mgsm_direct_sw": None}},
    ],
    ids=str,
)
def test_a_null_group_of_an_identity_is_an_absent_one(commands: Path, name: str, groups: dict[str, Any]) -> None:
    give(commands, with_identity(**groups))
    COMMANDS[name](commands)
    read_all([commands / "baseline", commands / "given"])


def test_an_adapter_hash_of_another_kind_is_refused(commands: Path) -> None:
    give(commands, with_identity(model={"adapter": 5}))
    with pytest.raises(UserError, match=r"routing\.identity\.model\.adapter"):
        read_all([commands / "given"])


@pytest.mark.filterwarnings("ignore::lm_eval_moe.errors.RoutingWarning")
@given(data=json_bytes([{"schema_version": 1, "identity": IDENTITY.to_dict(), "model": "m"}]))
@hostile(60)
def test_settings_of_a_sweep(commands: Path, data: bytes) -> None:
    file = commands / "sweep" / "settings.json"
    good = file.read_bytes()
    file.write_bytes(data)
    try:
        inside("sweep settings", lambda: RunStore(commands / "sweep", {}, IDENTITY))
        (commands / "sweep" / "table.json").write_text(json.dumps({"schema_version": 1, "name": "s", "benchmarks": []}))
        inside("sweep in a report", lambda: read_sweep(commands / "sweep"))
    finally:
        file.write_bytes(good)


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
