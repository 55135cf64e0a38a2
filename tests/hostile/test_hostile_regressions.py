"""What fuzzing has found once, each as its smallest input: refused with one message that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.hostile.boundary import inside
from support.hostile.mutations import BOMB
from support.written_profiles import SMALL, spec_of, write
from support.written_runs import DATE, write_run

from lm_eval_moe.compare import BoardSettings, build_board, choose_runs
from lm_eval_moe.compare.formats import render
from lm_eval_moe.errors import UserError
from lm_eval_moe.pairing import load_entries
from lm_eval_moe.profiles import read_profile
from lm_eval_moe.report.page import report_html
from lm_eval_moe.report.sources import read_sources
from lm_eval_moe.results import read_results
from lm_eval_moe.results._json_lines import Columns, read_columns
from lm_eval_moe.results.run import Run
from lm_eval_moe.results.values import Metric
from lm_eval_moe.steering import resolve
from lm_eval_moe.strict_yaml import yaml_value


def leaderboard(folder: Path) -> str:
    chosen = choose_runs([str(folder)])
    return render(build_board(chosen.runs, BoardSettings(), notes=chosen.notes), "json", title="Leaderboard")


ENTRY = "version: 1\nentries: [{{tasks: {tasks}, benchmark: b, item: row, language: sw}}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY.format(tasks="'" + "(" * 2000 + ")" * 2000 + "'"), "is not a regular expression"),
        (ENTRY.format(tasks="'a{99999999999999999999}'"), "is not a regular expression: the repetition number"),
        (ENTRY.format(tasks="'" + "(" * 3000 + "'"), "is not a regular expression"),
        (f"{BOMB}version: *a9", "aliases expand to far too many values"),
        ("version: " + "[" * 3000, "nested deeper than 50 levels"),
        ("version: !!bool x", "not a value of type bool"),
        ("version: !!int ''", "not a value of type int"),
        ("version: !!timestamp x", "the tag !!timestamp is not allowed"),
        ("version: 1\n? " + "a" * 5000 + "\n: 1", "unknown key 'aaaa"),
        ("# " + "x" * 10_000_001, "is 10 MB large"),
    ],
)
def test_parallel_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    found = inside("regression", lambda: load_entries(path))
    assert isinstance(found, UserError)
    assert message in str(found)
    assert str(found).startswith(str(path))
    assert len(str(found)) < 600


def test_a_path_with_a_null_byte() -> None:
    found = inside("regression", lambda: load_entries(Path("a\0b")))
    assert isinstance(found, UserError)
    assert "cannot be read: embedded null" in str(found)


def test_a_key_of_thousands_of_characters_given_twice() -> None:
    found = inside("regression", lambda: yaml_value(f"? {'a' * 5000}\n: 1\n? {'a' * 5000}\n: 2", where="f"))
    assert isinstance(found, UserError)
    assert "is given twice" in found.problem
    assert len(str(found)) < 300


def test_a_path_of_thousands_of_characters(tmp_path: Path) -> None:
    rule = {"task": {"profile": "x" * 5000 + ".json", "baseline": "b.json", "threshold": 0.1}}
    found = inside("regression", lambda: spec_of(rule, tmp_path))
    assert isinstance(found, UserError)
    assert "cannot be read: File name too long" in str(found)
    assert len(str(found)) < 300


def test_a_path_that_leaves_the_folder_is_followed_and_reported(tmp_path: Path) -> None:
    """``..`` is allowed; the plan, and with it the results file, has the path as given and the hash of its content."""
    (tmp_path / "specs").mkdir()
    write(tmp_path / "task.safetensors", [("a", 10, [[5, 5, 6, 4], [10, 2, 4, 4]])])
    write(tmp_path / "base.safetensors", [("b", 10, [[1, 9, 6, 4], [2, 10, 4, 4]])], benchmark="general")
    rule = {"task": {"profile": "../task.safetensors", "baseline": "../base.safetensors", "threshold": 0.1}}
    plan = resolve(spec_of(rule, tmp_path / "specs"), SMALL)
    assert [each.given for each in plan.profiles] == ["../task.safetensors", "../base.safetensors"]
    assert all(len(each.sha256) == 64 for each in plan.profiles)
    assert plan.spec["interventions"][0]["experts"]["task"]["profile"] == "../task.safetensors"


def test_profile_metadata_of_thousands_of_characters(tmp_path: Path) -> None:
    from safetensors.numpy import save

    path = tmp_path / "p.safetensors"
    path.write_bytes(save({"tokens": np.zeros(1, dtype=np.int64)}, {"format": "a" * 5000}))

    found = inside("regression", lambda: read_profile(path))
    assert isinstance(found, UserError)
    assert len(str(found)) < 400


def read_one(path: Path) -> Run:
    return Run(read_results([path])[0])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"config": [1]}, "config: expected a table, got [1]"),
    ({"configs": {"mgsm_direct_en": "x"}}, "configs.mgsm_direct_en: expected a table, got 'x'"),
    ({"n-samples": {"mgsm_direct_en": {"effective": float("inf")}}}, "effective: expected a whole number, got inf"),
    ({"n-samples": {"mgsm_direct_en": {"effective": 10**400}}}, "effective: expected a whole number, got 1000"),
    ({"routing": {"model_shape": {"layers": "all"}}}, "routing.model_shape.layers: expected a list, got 'all'"),
    ({"routing": {"steering": "x"}}, "routing.steering: expected a table, got 'x'"),
    ({"routing": {"tasks": {"t": {"curves": {"divergence": ["x"]}}}}}, "divergence.0: expected a number, got 'x'"),
    ({"routing": {"steering": {"spec": {"interventions": [None]}}}}, "interventions.0: expected a table, got None"),
    ({"group_subtasks": {"g": "abc"}}, "group_subtasks.g: expected a list, got 'abc'"),
    (
        {"routing": {"model_shape": {"layers": [0, 1], "bands": {"middle": [1, 2]}}}},
        "routing.model_shape.bands.middle: expected some of the model's layers, got [1, 2]",
    ),
    (
        {"routing": {"model_shape": {"layers": [0, 1]}, "steering": {"experts": {"2": [1]}}}},
        "routing.steering.experts: expected one of the model's layers, got '2'",
    ),
    ({"routing": {"steering": {"experts": {"all": [1]}}}}, "expected one of the model's layers, got 'all'"),
    (
        {"routing": {"model_shape": {"layers": [0, 1]}, "tasks": {"t": {"curves": {"entropy": [0.5]}}}}},
        "routing.tasks.t.curves.entropy: expected 2 values, got [0.5]",
    ),
    ({"routing": {"control": {"tasks": {"t": {"acc,none": 0.1}}}}}, "t.acc,none: expected a table, got 0.1"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message.partition(":")[0] for _, message in WRONG])
def test_results_of_another_form(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_run(tmp_path, {"en": [1.0, 0.0]}, changes=changes)
    found = inside("regression", lambda: read_one(path))
    assert isinstance(found, UserError)
    assert message in str(found)
    assert str(path) in str(found)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"results": ' + "9" * 5000 + "}", '{"results": {"a": ' + "[" * 9000]
)
def test_results_that_json_cannot_hold(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    assert isinstance(inside("regression", lambda: read_one(path)), UserError)


@pytest.mark.parametrize("scores", [None, {"exact_match,none": float("nan")}])
def test_a_task_with_an_endless_name(tmp_path: Path, scores: Any) -> None:
    path = write_run(tmp_path, {"en": [1.0, 0.0]}, samples=False)
    content = json.loads(path.read_text())
    content["results"]["a" * 5000] = scores
    path.write_text(json.dumps(content))
    found = inside("regression", lambda: read_one(path))
    assert isinstance(found, UserError)
    assert len(str(found)) < 600


def test_a_report_where_facts_are_missing_or_odd(tmp_path: Path) -> None:
    changes = {
        "n-samples": {"mgsm_direct_en": {"effective": 2}},
        "config": {"model_args": 7, "limit": 10**400},
        "date": 1e99,
        "routing": {"model_shape": {"layers": [0, 1]}, "tasks": {}},
    }
    write_run(tmp_path, {"en": [1.0, 0.0]}, changes=changes)
    sources = read_sources([str(tmp_path)])
    html = report_html(sources.runs, title="Odd")
    assert "2 of ?" in html
    assert "MoE layers 0-1 of ?, ? experts, top ?" in html


GAIN = {"exact_match,flexible-extract": {"gain": 0.5, "low": 0.1, "high": 0.9}}
TASKS = {"mgsm_direct_en": GAIN, "mgsm_direct_sw": GAIN}


@pytest.mark.parametrize(
    "changes",
    [
        {
            "routing": {"control": {"seeds": [1], "tasks": TASKS, "groups": {"mgsm": None}}},
            "group_subtasks": {"mgsm": list(TASKS)},
        },
        {"routing": {"control": {"seeds": None, "tasks": TASKS, "groups": {"mgsm": {}}}}},
        {"routing": {"control": {"tasks": TASKS, "groups": {"a": GAIN}}}, "group_subtasks": {"a": ["b"], "b": ["a"]}},
        {"group_subtasks": {"mgsm": None}},
    ],
)
def test_a_leaderboard_of_odd_groups(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_run(tmp_path, {"en": [1.0, 0.0], "sw": [1.0, 0.0]}, changes=changes)
    assert isinstance(inside("regression", lambda: leaderboard(tmp_path)), str)


def test_scores_beyond_the_largest_double(tmp_path: Path) -> None:
    path = write_run(tmp_path, {"en": [1.0, 0.0]}, samples=False)
    content = json.loads(path.read_text())
    content["results"]["mgsm_direct_en"]["exact_match,flexible-extract"] = 10**400
    path.write_text(json.dumps(content))
    assert list(read_one(path).metrics("mgsm_direct_en")) == []


@pytest.mark.parametrize("field", ["exact_match,flexible-extract", "exact_match_stderr,flexible-extract"])
def test_a_number_whose_square_is_infinite(tmp_path: Path, field: str) -> None:
    path = write_run(tmp_path, {"en": [1.0, 0.0], "sw": [1.0, 0.0]}, samples=False)
    content = json.loads(path.read_text())
    content["results"]["mgsm_direct_en"][field] = 1e308
    path.write_text(json.dumps(content))

    found = inside("regression", lambda: leaderboard(tmp_path))
    if "stderr" in field:
        assert isinstance(found, str)
        assert "mgsm" in found
        assert "Infinity" not in found
    else:
        assert isinstance(found, UserError)
        assert "the score is 1e+308" in str(found)


@pytest.mark.parametrize("line", ['{"doc_id": ' + "[" * 100_000, "[" * 100_000])
def test_a_samples_log_that_nests_too_deeply(tmp_path: Path, line: str) -> None:
    path = write_run(tmp_path, {"en": [1.0, 0.0]})
    log = tmp_path / f"samples_mgsm_direct_en_{DATE}.jsonl"
    log.write_text(log.read_text() + line + "\n")
    found = inside("regression", lambda: read_one(path).samples_of("mgsm_direct_en"))
    assert isinstance(found, UserError)
    assert "line 3 is not a JSON object" in str(found)


def test_a_sample_beyond_the_largest_double(tmp_path: Path) -> None:
    path = write_run(tmp_path, {"en": [1.0, 0.0]})
    log = tmp_path / f"samples_mgsm_direct_en_{DATE}.jsonl"
    log.write_text(log.read_text().replace('"exact_match": 0.0', f'"exact_match": {10**400}'))
    metric = Metric("exact_match", "flexible-extract")
    found = inside("regression", lambda: read_one(path).score("mgsm_direct_en", metric))
    assert isinstance(found, UserError)
    assert "line 2 (document 1) holds 1000" in str(found)
    assert len(str(found)) < 600


@pytest.mark.parametrize("name", ['say "yes"', "back\\slash", "bell\x07", "\ud800"])
def test_a_metric_with_an_odd_name_is_read_from_its_log(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path, {"en": [1.0, 0.0]})
    log = tmp_path / f"samples_mgsm_direct_en_{DATE}.jsonl"
    log.write_text(log.read_text().replace('"exact_match"', json.dumps(name)))
    found = inside("regression", lambda: read_columns(log, ["doc_id", name]))
    assert isinstance(found, Columns)
    assert found.values == {"doc_id": [0, 1], name: [1.0, 0.0]}
    content = json.loads(path.read_text())
    scores = content["results"]["mgsm_direct_en"]
    scores[f"{name},flexible-extract"] = scores.pop("exact_match,flexible-extract")
    path.write_text(json.dumps(content))
    inside("regression", lambda: read_one(path).score("mgsm_direct_en", Metric(name, "flexible-extract")))


def test_a_task_whose_routing_names_no_benchmark(tmp_path: Path) -> None:
    entry = {"mgsm_direct_en": {"language": "en"}}
    run = read_one(write_run(tmp_path, {"en": [1.0, 0.0]}, changes={"routing": {"tasks": entry}}))
    score = run.score("mgsm_direct_en", Metric("exact_match", "flexible-extract"))
    assert score is not None
    assert score.items == {0: 1.0, 1: 0.0}
