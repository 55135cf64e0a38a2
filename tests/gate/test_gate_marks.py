"""Leaks, idle steering and copied profiles stand beside the verdict, in every format."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.gate.evidence_of import policy
from support.gate.real_runs import HARMFUL, Evaluator
from support.gate.stock_results import right, write_stock

from lm_eval_moe.cli import main
from lm_eval_moe.gate import SideFiles, Verdict, check
from lm_eval_moe.gate.junit import junit_xml
from lm_eval_moe.gate.markdown import markdown_summary
from lm_eval_moe.gate.table import verdict_table

DRIFT = {"early": 1, "middle": 1, "late": 1}


def copy_of(folder: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy a run and change its results."""
    shutil.copytree(folder, to)
    (file,) = to.rglob("results_*.json")
    results = json.loads(file.read_text(encoding="utf-8"))
    change(results)
    file.write_text(json.dumps(results), encoding="utf-8")
    return to


def gate(baseline: Path, candidate: Path, profiles: tuple[Path, Path] | None = None, **settings: Any) -> Verdict:
    first, second = profiles or (None, None)
    settings = {"routing_drift": DRIFT, **settings} if profiles else settings
    rules = policy(0.3, 0.2, **settings)
    return check(rules, SideFiles([baseline], first), SideFiles([candidate], second), today=datetime.date(2026, 6, 15))


def entry(task: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    def change(results: dict[str, Any]) -> None:
        results["routing"]["tasks"][task] |= fields

    return change


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"leaked_documents": 7},
            "documents that the steering's experts were selected on (--allow_leak): a gain on them proves nothing: "
            "the candidate (7 of 40 in demo_arith_sw).",
        ),
        (
            {"leak_unknown": True},
            "it could not be checked on which items the steering's experts were selected: "
            "the candidate (demo_arith_sw).",
        ),
        (
            {"steered_tokens": 0},
            "steering was in force, but reached no token of the task: the run is unsteered there: "
            "the candidate (demo_arith_sw).",
        ),
    ],
)
def test_a_marked_candidate_is_said_in_every_format(
    real_pair: tuple[Path, Path], tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    candidate = copy_of(real_pair[1], tmp_path / "copy", entry("demo_arith_sw", **fields))
    verdict = gate(real_pair[0], candidate)
    assert [note for note in verdict.notes if "demo_arith_sw" in note] == [said]
    assert said in verdict.to_dict()["notes"]
    assert said in junit_xml(verdict)
    assert said in markdown_summary(verdict).replace("\\", "")
    assert said in " ".join(verdict_table(verdict).split())


def test_a_marked_baseline_is_said_too(real_pair: tuple[Path, Path], tmp_path: Path) -> None:
    baseline = copy_of(real_pair[1], tmp_path / "copy", entry("demo_arith_sw", leaked_documents=7))
    assert any("the baseline (7 of 40 in demo_arith_sw)" in note for note in gate(baseline, real_pair[0]).notes)


def test_plain_runs_have_no_such_notes(real_pair: tuple[Path, Path]) -> None:
    profiles = (real_pair[0] / "profile.safetensors", real_pair[1] / "profile.safetensors")
    assert not [note for note in gate(*real_pair, profiles).notes if "steering" in note or "IDENTICAL" in note]


def test_a_copied_profile_of_the_same_model_and_steering_is_said(real_pair: tuple[Path, Path], tmp_path: Path) -> None:
    candidate = copy_of(real_pair[0], tmp_path / "copy", lambda results: None)
    profiles = (real_pair[0] / "profile.safetensors", candidate / "profile.safetensors")
    verdict = gate(real_pair[0], candidate, profiles)
    assert verdict.exit_code == 0
    assert verdict.notes[0].startswith("IDENTICAL PROFILES: ")
    assert "are byte for byte the same" in verdict.notes[0]
    assert verdict.notes[0] in junit_xml(verdict)
    again = gate(real_pair[0], candidate, (profiles[0], profiles[0]))
    assert "are the same file" in again.notes[0]


def test_one_profile_cannot_be_of_two_models(real_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The stale profile of the model before it was trained further gave a drift of 0 and passed."""

    def rename(results: dict[str, Any]) -> None:
        results["config"]["model_args"] = {"pretrained": "demo-trained-further"}

    candidate = copy_of(real_pair[0], tmp_path / "copy", rename)
    profiles = (real_pair[0] / "profile.safetensors", candidate / "profile.safetensors")
    verdict = gate(real_pair[0], candidate, profiles)
    (line,) = [line for line in verdict.lines if line.kind == "drift"]
    assert line.effect == "unjudged"
    assert line.sentence.startswith("IDENTICAL PROFILES: ")
    assert "one profile cannot belong to both" in line.sentence
    assert verdict.exit_code == 2


def test_two_captures_of_one_model_that_differ_are_no_copies(
    evaluator: Evaluator, real_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    fewer = evaluator.write(tmp_path / "fewer", ["demo_arith_en", "demo_arith_de", "demo_arith_sw"], 39)
    profiles = (real_pair[0] / "profile.safetensors", fewer / "profile.safetensors")
    assert not any("IDENTICAL" in note for note in gate(real_pair[0], fewer, profiles).notes)


def test_a_steered_run_of_the_stock_command_says_that_nothing_was_checked(
    evaluator: Evaluator, real_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    def strip(results: dict[str, Any]) -> None:
        del results["routing"]

    candidate = copy_of(real_pair[1], tmp_path / "copy", strip)
    verdict = gate(real_pair[0], candidate)
    assert "harmful #" in verdict.candidate.label
    assert HARMFUL["name"] == "harmful"
    assert any(note.startswith("it could not be checked on which items") for note in verdict.notes)


def test_a_candidate_without_scores_says_why(tmp_path: Path) -> None:
    baseline = write_stock(tmp_path / "a", {"sw": right(60, 100)})
    candidate = write_stock(tmp_path / "b", {"sw": right(60, 100)}, samples=False)
    (file,) = candidate.glob("results_*.json")
    results = json.loads(file.read_text())
    results["results"]["xcopa_sw"] = {"bypass,none": 999, "bypass_stderr,none": "N/A"}
    file.write_text(json.dumps(results))
    (line,) = gate(baseline, candidate).lines
    assert line.sentence.endswith("its metrics: none: it was run with --predict_only")
    assert main(["gate", "init", str(candidate), "-o", str(tmp_path / "p.yaml")]) == 2
