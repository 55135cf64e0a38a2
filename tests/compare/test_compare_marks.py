"""What has to be known of a number stands beside it in every format; other divergences are not compared."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from support.written_runs import amend, write_run

from lm_eval_moe.cli import main
from lm_eval_moe.compare import Board, BoardSettings, Section, build_board, choose_runs
from lm_eval_moe.compare.cells import BoardCell
from lm_eval_moe.compare.formats import render
from lm_eval_moe.compare.formats.as_terminal import show
from lm_eval_moe.compare.wording import change_text, section_notes, value_text
from lm_eval_moe.results.marks import SIGNS

LANGUAGES = ("en", "de", "sw")
BETTER = "\N{BLACK UP-POINTING TRIANGLE}"


def scores(seed: int, items: int = 40) -> dict[str, list[float]]:
    generator = np.random.default_rng(seed)
    return {lang: (generator.random(items) < 0.6).astype(float).tolist() for lang in LANGUAGES}


def divergences(level: float, items: int = 40) -> dict[str, list[float]]:
    generator = np.random.default_rng(7)
    return {lang: (level + 0.01 * generator.standard_normal(items)).tolist() for lang in LANGUAGES[1:]}


def pair(folder: Path, first: Mapping[str, Any] = {}, second: Mapping[str, Any] = {}) -> list[str]:
    """Write an unsteered and a steered run of far smaller divergence; change their ``routing`` objects."""
    paths = (
        write_run(folder / "a", scores(1), divergence=divergences(0.4)),
        write_run(folder / "b", scores(2), divergence=divergences(0.3), steering="soft"),
    )
    for path, changes in zip(paths, (first, second), strict=True):
        amend(path, **changes)
    return [f"base={paths[0]}", f"soft={paths[1]}"]


def board_of(arguments: list[str], **settings: Any) -> Board:
    chosen = choose_runs(arguments)
    return build_board(chosen.runs, BoardSettings(**{"sort": "given", **settings}), notes=chosen.notes)


def cell(section: Section, label: str, column: str) -> BoardCell:
    row = next(row for row in section.rows if row.label == label)
    return row.cells[[head.title for head in section.heads].index(column)]


def kinds(section: Section, label: str, column: str) -> list[str]:
    return [mark.kind for mark in cell(section, label, column).marks]


def terminal(board: Board) -> str:
    text = io.StringIO()
    show(board, Console(file=text, width=200, highlight=False, markup=False, emoji=False))
    return text.getvalue()


TASK = "mgsm_direct_sw"
MARKED = {
    "leaked": ({"leaked_documents": 5, "documents": 40}, "soft (5 of 40 in mgsm_direct_sw)"),
    "leak unknown": ({"leak_unknown": True}, "soft (mgsm_direct_sw)"),
    "unreached": ({"steered_tokens": 0}, "soft (mgsm_direct_sw)"),
}


@pytest.mark.parametrize("kind", MARKED)
def test_a_mark_stands_in_the_task_and_in_every_average_with_it(tmp_path: Path, kind: str) -> None:
    entry, text = MARKED[kind]
    board = board_of(pair(tmp_path, second={"tasks": {TASK: entry}}))
    (section,) = board.sections
    for column in ("sw", "average", "without en", "routing divergence"):
        assert kinds(section, "soft", column) == [kind]
        assert kinds(section, "base", column) == []
    assert kinds(section, "soft", "de") == []
    sign = SIGNS[kind]  # type: ignore[index]
    head = section.heads[0]
    assert value_text(cell(section, "soft", "average"), head).endswith(f" {sign}")
    note = section_notes(section, board)[0]
    assert note.startswith(f"{sign}: ")
    assert note.endswith(f": {text}.")
    # The same note in every format.
    assert text in terminal(board).replace("\n", " ")
    assert f"{sign} " in render(board, "markdown")
    assert text in render(board, "markdown").replace("\\", "")
    assert text in render(board, "html")
    records = list(csv.DictReader(io.StringIO(render(board, "csv"))))
    marked = {(each["run"], each["column"]) for each in records if each["marks"] == kind}
    assert marked == {("soft", each) for each in ("sw", "average", "without en", "routing divergence")}
    (table,) = json.loads(render(board, "json"))["tables"]
    (mark,) = table["marks"]
    assert (mark["sign"], mark["kind"], mark["run"], mark["where"]) == (sign, kind, "soft", TASK)
    assert (mark["count"], mark["of"]) == ((5, 40) if kind == "leaked" else (0, 0))


def test_a_change_against_a_marked_baseline_is_marked(tmp_path: Path) -> None:
    arguments = pair(tmp_path, second={"tasks": {TASK: MARKED["leaked"][0]}})
    (section,) = board_of(arguments, baseline="soft").sections
    found = cell(section, "base", "sw")
    assert found.marks == ()
    assert change_text(found, section.heads[-1]).endswith(" L")
    assert not change_text(cell(section, "base", "de"), section.heads[-1]).endswith("L")


def test_files_that_say_nothing_are_not_marked(tmp_path: Path) -> None:
    (section,) = board_of(pair(tmp_path)).sections
    assert section.marks == ()
    entry = {"leaked_documents": 0, "leak_unknown": False, "steered_tokens": 812, "curve_documents": {"divergence": 40}}
    (section,) = board_of(pair(tmp_path, second={"tasks": {TASK: entry}})).sections
    assert section.marks == ()


def test_unsteered_runs_have_no_steering_that_reached_nothing(tmp_path: Path) -> None:
    entry = {"steered_tokens": 0, "leak_unknown": True}
    (section,) = board_of(pair(tmp_path, first={"tasks": {TASK: entry}})).sections
    assert section.marks == ()


@pytest.mark.parametrize(("compared", "marked"), [(39, True), (40, False)])
def test_divergence_over_fewer_documents_says_over_how_many(tmp_path: Path, compared: int, marked: bool) -> None:
    tasks = {TASK: {"curve_documents": {"divergence": compared, "entropy": 40}, "documents": 40}}
    board = board_of(pair(tmp_path, first={"tasks": tasks}, second={"tasks": tasks}))
    (section,) = board.sections
    assert kinds(section, "soft", "routing divergence") == ["partial"] * marked
    assert kinds(section, "soft", "sw") == []  # the score is over all
    assert ("base (39 of 40 in mgsm_direct_sw)" in " ".join(section_notes(section, board))) == marked
    # Both lack the same number of documents: they can be compared.
    assert cell(section, "soft", "routing divergence").change is not None


def test_divergence_of_fewer_samples_is_marked_where_the_file_does_not_count_them(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", scores(1), divergence={"de": divergences(0.4)["de"], "sw": [0.3, 0.5] * 20})
    log = path.with_name(path.name.replace("results", f"samples_{TASK}") + "l")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines[2:]:
        del line["routing_divergence"]
    log.write_text("\n".join(map(json.dumps, lines)) + "\n")
    (section,) = board_of([str(path)]).sections
    (mark,) = section.marks
    assert (mark.kind, mark.count, mark.of) == ("partial", 2, 40)


SHAPE = {"layers": [0, 1], "experts": 8, "top_k": 2, "depth": 2, "bands": {}}
OWN, FIXED = {"kind": "run", "steering": None}, {"kind": "profile", "file": "en.safetensors", "steering": None}
OTHER = {
    "reference language": ({}, {"reference": "de"}, "reference language en in base, de in soft"),
    "span": ({}, {"capture": "all"}, "span prompt in base, all in soft"),
    "top k": (
        {"model_shape": SHAPE},
        {"model_shape": SHAPE | {"top_k": 1}},
        "of 2 layers of 8 experts, top 2 in base, of 2 layers of 8 experts, top 1 in soft",
    ),
    "experts": ({"model_shape": SHAPE}, {"model_shape": SHAPE | {"experts": 4}}, "of 8 experts, top 2 in base"),
    "reference steering": (
        {"reference_source": {"kind": "profile", "steering": "cd" * 32}},
        {"reference_source": FIXED},
        "divergence to a reference steered with #cdcdcdcd in base, a reference without steering in soft",
    ),
    "documents": (
        {},
        {"tasks": {TASK: {"curve_documents": {"divergence": 1}, "documents": 12}}},
        "mgsm_direct_sw over all documents in base, over 1 in soft",
    ),
}


def test_the_same_quantity_is_compared_and_marked_beyond_chance(tmp_path: Path) -> None:
    (section,) = board_of(pair(tmp_path, first={"model_shape": SHAPE}, second={"model_shape": SHAPE})).sections
    found = cell(section, "soft", "routing divergence")
    assert found.change is not None
    assert found.change.difference.value == pytest.approx(-0.1)
    assert change_text(found, section.heads[2]).endswith(BETTER)


@pytest.mark.parametrize("case", OTHER)
def test_divergences_that_are_another_quantity_are_shown_without_a_difference(tmp_path: Path, case: str) -> None:
    first, second, reason = OTHER[case]
    board = board_of(pair(tmp_path, first, second))
    (section,) = board.sections
    found = cell(section, "soft", "routing divergence")
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(np.mean(list(divergences(0.3).values())), abs=1e-9)
    assert found.change is None
    assert "X" in value_text(found, section.heads[2])
    (note,) = [note for note in section_notes(section, board) if note.startswith("X: ")]
    assert reason in note
    # The scores are compared all the same.
    assert cell(section, "soft", "sw").change is not None


def test_a_divergence_to_an_unsteered_reference_is_marked_beside_those_to_ones_own(tmp_path: Path) -> None:
    (section,) = board_of(pair(tmp_path, {"reference_source": OWN}, {"reference_source": FIXED})).sections
    assert kinds(section, "soft", "routing divergence") == ["other reference"]
    assert kinds(section, "base", "routing divergence") == []
    # Both are to English of the unsteered model: one quantity.
    assert cell(section, "soft", "routing divergence").change is not None


def test_each_run_to_its_own_reference_is_not_marked(tmp_path: Path) -> None:
    own = {
        "kind": "run",
        "steering": json.loads(Path(pair(tmp_path)[1][5:]).read_text())["routing"]["steering"]["hash"],
    }
    (section,) = board_of(pair(tmp_path, {"reference_source": OWN}, {"reference_source": own})).sections
    assert section.marks == ()
    assert cell(section, "soft", "routing divergence").change is not None


def test_a_run_without_the_metric_is_listed_with_a_dash_and_a_note(tmp_path: Path) -> None:
    path = write_run(tmp_path / "b", scores(2), steering="soft", metric="f1")
    board = board_of([f"base={write_run(tmp_path / 'a', scores(1))}", f"soft={path}"])
    (section,) = board.sections
    assert [row.label for row in section.rows] == ["base", "soft"]
    assert {value_text(cell(section, "soft", head.title), head) for head in section.heads} == {"\N{EN DASH}"}
    assert any(
        note.startswith("soft has no exact_match,flexible-extract of mgsm_direct_en, ")
        and note.endswith("its metrics are f1,flexible-extract.")
        for note in section.notes
    )


def bypassed(folder: Path) -> Path:
    path = write_run(folder, scores(1), metric="bypass", samples=False)
    results = json.loads(path.read_text())
    for entry in results["results"].values():
        entry["bypass,flexible-extract"] = 999
    path.write_text(json.dumps(results))
    return path


def test_bypass_is_not_a_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = bypassed(tmp_path / "b")
    assert main(["compare", str(alone)]) == 2
    said = capsys.readouterr().err
    assert "no task has a score" in said
    assert "it was run with --predict_only: lm-eval's bypass of 999 is not a score" in said
    board = board_of([f"base={write_run(tmp_path / 'a', scores(1))}", f"empty={alone}"])
    (section,) = board.sections
    assert [row.label for row in section.rows] == ["base", "empty"]
    assert cell(section, "empty", "sw") == BoardCell(None, None)
    assert any("empty has no exact_match" in note and "--predict_only" in note for note in section.notes)
    assert "999.0" not in terminal(board)


def test_a_run_in_no_table_is_named(tmp_path: Path) -> None:
    path = write_run(tmp_path / "b", {"sw": [1.0, 0.0]}, benchmark="xstorycloze", metric="bypass", samples=False)
    board = board_of([f"base={write_run(tmp_path / 'a', scores(1))}", f"empty={path}"])
    assert any(note.startswith("empty stands in no table") for note in board.notes)


def test_the_kind_of_an_averages_standard_error_is_named(tmp_path: Path) -> None:
    values = scores(1)
    first, second = write_run(tmp_path / "a", values), write_run(tmp_path / "b", values, samples=False, model="org/two")
    board = board_of([f"a={first}", f"b={second}"])
    (section,) = board.sections
    a, b = cell(section, "a", "average").estimate, cell(section, "b", "average").estimate
    assert a is not None
    assert b is not None
    table = np.array(list(values.values()))
    assert (a.kind, a.stderr) == ("clustered by item", pytest.approx(stats.sem(table.mean(axis=0))))
    independent = np.sqrt(np.sum(stats.sem(table, axis=1) ** 2)) / 3
    assert (b.kind, b.stderr) == ("languages as independent", pytest.approx(independent))
    (note,) = [note for note in section_notes(section, board) if note.startswith("Standard errors of averages")]
    assert "clustered by item in a; languages as independent in b" in note
    records = {(r["run"], r["column"]): r for r in csv.DictReader(io.StringIO(render(board, "csv")))}
    assert records["a", "average"]["stderr_kind"] == "clustered by item"
    assert records["b", "average"]["stderr_kind"] == "languages as independent"
    assert records["b", "sw"]["stderr_kind"] == "of one task"


def test_a_run_without_samples_gives_the_clustered_error_that_it_computed_itself(tmp_path: Path) -> None:
    values = scores(1)
    path = write_run(tmp_path / "a", values, divergence=divergences(0.4), samples=False)
    mean, key = float(np.mean(list(values.values()))), "exact_match,flexible-extract"
    entry = {"languages": {lang: [f"mgsm_direct_{lang}"] for lang in LANGUAGES}, "clustered_stderr": {key: 0.0321}}
    amend(path, groups={"mgsm_direct": entry})
    for value, kind in ((mean, "clustered by item"), (mean + 0.01, "languages as independent")):
        results = json.loads(path.read_text())
        results["results"]["mgsm_direct"] = {"alias": "mgsm_direct", key: value}
        results["groups"] = {"mgsm_direct": {key: value}}
        results["group_subtasks"] = {"mgsm_direct": [f"mgsm_direct_{lang}" for lang in LANGUAGES]}
        path.write_text(json.dumps(results))
        (section,) = board_of([str(path)]).sections
        (row,) = section.rows
        assert row.cells[0].estimate is not None
        assert row.cells[0].estimate.kind == kind
        assert (row.cells[0].estimate.stderr == 0.0321) == (kind == "clustered by item")


def test_documents_that_nobody_recorded_are_said(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / name, scores(n), samples=False) for n, name in enumerate("ab")]
    board = board_of([f"{path.parent.name}={path}" for path in paths])
    assert sum("evaluated chosen ones (--samples) and does not say which" in note for note in board.notes) == 2
    for path in paths:
        results = json.loads(path.read_text())
        results["config"]["limit"] = 40.0
        path.write_text(json.dumps(results))
    assert board_of([f"{path.parent.name}={path}" for path in paths]).notes == ()
