"""Two processes (gloo, on the CPU) give what one gives: scores, routing, samples, controls, and the response cache.

Sums over documents are equal to rounding: each process adds up its own.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.paths import TESTS
from support.profile_records import read_records

from lm_eval_moe.identity import PARTS, Identity
from lm_eval_moe.recording import RoutingRecord
from lm_eval_moe.resources import steering_configs_dir, tasks_dir

pytestmark = pytest.mark.long

ONE = [sys.executable, "-m", "lm_eval_moe"]
TWO = [
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
    str(TESTS / "support" / "cpu_ranks.py"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task that asks every question twice."""
    folder = tmp_path_factory.mktemp("processes")
    own = folder / "tasks"
    own.mkdir()
    for name in ("_demo_arith_gen_yaml", "utils.py"):
        shutil.copy(tasks_dir() / "demo" / name, own)
    (own / "twice.yaml").write_text(
        "include: _demo_arith_gen_yaml\ntask: asked_twice\nrepeats: 2\nmetadata:\n  version: 1.0\n"
        "  routing: {language: tr, benchmark: asked_twice, item: item_id}\n",
        encoding="utf-8",
    )
    return folder


FILTERS_KEEP_REPEATS = not version("lm_eval").startswith("0.4.")
"""Whether lm-eval logs all that a filter leaves of a request's repeats, not the first of it."""


def run(launcher: list[str], folder: Path, name: str, cache: str, *more: str) -> tuple[dict[str, Any], list[str]]:
    """Return the results and the sample logs of a run of two kinds of requests with an odd number of documents."""
    arguments = [
        *("run", "--model", "hf-moe", "--model_args", "pretrained=demo", "--device", "cpu"),
        *(
            "--tasks",
            "demo_arith_en,demo_arith_sw,demo_arith_gen_sw,asked_twice",
            "--include_path",
            str(folder / "tasks"),
        ),
        # One request a batch: which of them share a batch, and so the last bits, depends on the number of processes.
        *("--limit", "5", "--batch_size", "1", "--log_samples", "--routing_fields", "all"),
        *("--steering", str(steering_configs_dir() / "demo_task_experts.yaml"), "--control", "random:1"),
        *("--use_cache", str(folder / cache), "--output_path", str(folder / name), *more),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launcher, *arguments], env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert ("on rank 1" in done.stderr) == (launcher is TWO)
    (file,) = (folder / name).rglob("results_*.json")
    logs = sorted((folder / name).rglob("samples_*.jsonl"))
    assert len(logs) == 4
    return json.loads(file.read_text(encoding="utf-8")), [log.read_text(encoding="utf-8") for log in logs]


def lasting(results: dict[str, Any]) -> dict[str, Any]:
    kept = {key: results[key] for key in ("results", "routing", "n-samples", "versions", "higher_is_better")}
    return {**kept, "routing": {name: value for name, value in kept["routing"].items() if name != "identity"}}


def differences(one: Identity | None, other: Identity | None) -> list[str]:
    assert one is not None
    assert other is not None
    return [difference.part for difference in one.differences(other, PARTS)]


def vars_of(record: RoutingRecord) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def rounded(value: Any) -> Any:
    """Return nested tables and lists whose floats are without their last digits."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


def answers(log: str, repeats: int) -> list[dict[str, Any]]:
    """Return a log's entries in the documents' order, without the answers that only evened out the processes' work."""
    rows = [json.loads(line) for line in log.splitlines()]
    padded = ("resps", "filtered_resps") if FILTERS_KEEP_REPEATS else ("resps",)
    cut = [{**row, **{name: [part[:repeats] for part in row[name]] for name in padded}} for row in rows]
    return sorted(cut, key=lambda row: (row["doc_id"], row["filter"]))


def entries(file: Path) -> int:
    with sqlite3.connect(file) as database:
        return int(database.execute("SELECT count(*) FROM entries").fetchone()[0])


def test_two_processes_give_what_one_gives_and_share_a_cache(folder: Path) -> None:
    one, samples_of_one = run(ONE, folder, "one", "cache_of_one", "--routing_profile", str(folder / "one.safetensors"))
    two, samples_of_two = run(TWO, folder, "two", "cache_of_two", "--routing_profile", str(folder / "two.safetensors"))
    assert rounded(lasting(two)) == rounded(lasting(one))
    identities = [Identity.from_dict(results["routing"]["identity"]) for results in (one, two)]
    assert differences(*identities) == ["computation.processes"]
    for mine, theirs, repeats in zip(samples_of_one, samples_of_two, (2, 1, 1, 1), strict=True):  # sorted by task
        assert answers(theirs, repeats) == answers(mine, repeats)
    for entry in two["routing"]["tasks"].values():
        assert entry["steered_tokens"] > 0
        assert entry["evaluated_documents"] == 5
    (header, items, records), theirs = (read_records(folder / f"{name}.safetensors") for name in ("two", "one"))
    assert differences(header.identity, theirs[0].identity) == ["computation.processes"]
    assert (replace(header, identity=None), items) == (replace(theirs[0], identity=None), theirs[1])
    for mine, their in zip(records, theirs[2], strict=True):
        np.testing.assert_equal(vars_of(mine), vars_of(their))
    assert len(items) == 4 * 5
    assert one["routing"]["tasks"]["asked_twice"]["documents"] == 5
    assert "exact_match_gain_over_control,number" in one["results"]["demo_arith_gen_sw"]
    # What two processes kept, one process finds.
    before = entries(folder / "cache_of_two.moe.sqlite")
    again, _ = run(ONE, folder, "again", "cache_of_two", "--routing_profile", str(folder / "3.safetensors"))
    assert lasting(again) == lasting(one)
    assert entries(folder / "cache_of_two.moe.sqlite") == before


@pytest.mark.parametrize(("limit", "said"), [("languages: [fr]", 0), ("tokens: generated", 1)])
def test_strict_ends_all_processes(tmp_path: Path, limit: str, said: int) -> None:
    """Before the model runs, or when the results are written."""
    steering = tmp_path / "steer.yaml"
    steering.write_text(
        "version: 1\nname: x\ninterventions:\n"
        f"- {{layers: middle, experts: {{ids: {{all: [1, 5]}}}}, action: {{soft: 0.5}}, {limit}}}\n",
        encoding="utf-8",
    )
    arguments = ["run", "--model", "hf-moe", "--model_args", "pretrained=demo", "--device", "cpu", "--strict"]
    arguments += ["--tasks", "demo_arith_en", "--limit", "3", "--steering", str(steering)]
    arguments += ["--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*TWO, *arguments], env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode != 0
    assert "error: --strict: 1 warning" in done.stderr
    assert len(list((tmp_path / "out").rglob("results_*.json"))) == said
