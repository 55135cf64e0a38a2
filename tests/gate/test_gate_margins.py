"""A margin that no loss could exceed is refused with file and key; what the gate writes itself is never refused."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.gate.evidence_of import policy
from support.gate.stock_results import right, write_stock

from lm_eval_moe.cli import main
from lm_eval_moe.errors import UserError
from lm_eval_moe.gate import SideFiles, Verdict, check, load_policy
from lm_eval_moe.gate.margins import BaselineScore, check_margins
from lm_eval_moe.gate.policy import Policy


def scores(**values: float) -> list[BaselineScore]:
    return [BaselineScore("mgsm", lang, value, True) for lang, value in values.items()]


POINTS = "version: 1\nminimum_items: 10\nmargins: {language: 5, macro: 2}\n"


def test_points_for_shares_are_refused_with_file_and_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fall of 22 points passed."""
    file = tmp_path / "policy.yaml"
    file.write_text(POINTS, encoding="utf-8")
    baseline = write_stock(tmp_path / "a", {"sw": right(72, 100), "zh": right(70, 100)})
    candidate = write_stock(tmp_path / "b", {"sw": right(50, 100), "zh": right(70, 100)})
    given = ["gate", "--baseline", str(baseline), "--candidate", str(candidate), "--policy", str(file)]
    assert main(given) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert f"{file}: margins.language: a margin of 5 is no smaller than the baseline's score" in said
    assert "xcopa sw (72.0 %, margin 500.0 percentage points)" in said
    assert "0.05 for 5 percentage points" in said
    assert main(["gate", "power", str(baseline), "--policy", str(file)]) == 2
    assert "margins.language: a margin of 5" in capsys.readouterr().err
    file.write_text(POINTS.replace("5", "0.05").replace("2", "0.02"), encoding="utf-8")
    assert main(given) == 1


@pytest.mark.parametrize(
    ("rules", "where"),
    [
        (policy(0.5, 0.1), "p.yaml: margins.language"),
        (policy({"relative": 1}, 0.1), "p.yaml: margins.language"),
        (policy(0.1, 0.55), "p.yaml: margins.macro"),
        (policy(0.1, 0.1, benchmarks={"mgsm": {"margins": {"languages": {"sw": 0.5}}}}),
         "p.yaml: benchmarks.mgsm.margins.languages.sw"),
    ],
)  # fmt: skip
def test_a_margin_as_large_as_the_score_is_refused(rules: Policy, where: str) -> None:
    with pytest.raises(UserError, match="is no smaller than the baseline's score") as caught:
        check_margins(rules, scores(sw=0.5, de=0.6))
    assert caught.value.where == where
    assert caught.value.fix


@pytest.mark.parametrize(
    "rules",
    [
        policy(0.499, 0.549),
        policy({"relative": 0.999}, {"relative": 0.999}),
        policy(5, 5, benchmarks={"other": None}),  # not judged
        policy(0.9, 0.9, benchmarks={"mgsm": {"margins": {"language": 0.1, "macro": 0.1}}}),
        policy(0.9, 0.1, benchmarks={"mgsm": {"margins": {"languages": {"sw": 0.1, "de": 0.1}}}}),
    ],
)
def test_a_margin_below_the_score_is_accepted(rules: Policy) -> None:
    check_margins(rules, scores(sw=0.5, de=0.6))


def test_of_nothing_there_is_nothing_to_lose() -> None:
    check_margins(policy(0.1, 0.05), scores(sw=0.0, de=0.6))


def test_scores_that_are_no_shares_are_checked_by_their_size() -> None:
    given = [BaselineScore("lm", "de", 23.5, False), BaselineScore("lm", "sw", -31.0, False)]
    check_margins(policy(5, 3), given)
    with pytest.raises(UserError, match=r"lm de \(23.50, margin 25\)\n"):
        check_margins(policy(25, 1), given)


def gate(folder: Path, file: Path) -> Verdict:
    return check(load_policy(file), SideFiles([folder]), SideFiles([folder]), today=datetime.date(2026, 6, 15))


@pytest.mark.parametrize("correct", [0, 1, 2, 10, 20])
def test_the_first_policy_of_any_baseline_is_accepted(tmp_path: Path, correct: int) -> None:
    """Of few items the noise is larger than a low score: the margin then stays below the score."""
    folder = write_stock(tmp_path / "a", {"sw": right(correct, 20), "zh": right(min(correct + 1, 20), 20)})
    file = tmp_path / "policy.yaml"
    assert main(["gate", "init", str(folder), "-o", str(file)]) == 0
    margins: dict[str, Any] = yaml.safe_load(file.read_text())["benchmarks"]["xcopa"]["margins"]
    if correct:
        assert margins["languages"]["sw"] < correct / 20
    assert gate(folder, file).exit_code == 0


def test_margins_stand_in_the_units_of_drops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baseline = write_stock(tmp_path / "a", {"sw": right(72, 100)})
    candidate = write_stock(tmp_path / "b", {"sw": right(50, 100)})
    file = tmp_path / "policy.yaml"
    file.write_text("version: 1\nminimum_items: 10\nmargins: {language: 0.05, macro: 0.02}\n", encoding="utf-8")
    assert main(["gate", "--baseline", str(baseline), "--candidate", str(candidate), "--policy", str(file)]) == 1
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("sw")).split()
    assert row[2:8] == ["72.0", "%", "50.0", "%", "-22.0", row[7]]
    assert "5.0" in row
    assert "Changes and margins of shares are in percentage points." in " ".join(out.split())
    assert main(["gate", "init", str(baseline), "-o", str(tmp_path / "first.yaml")]) == 0
    assert "points; 100 items, 72.0 %" in (tmp_path / "first.yaml").read_text()
