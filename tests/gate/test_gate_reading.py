"""Two results on disk: what is compared with what, and what is refused."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from support.gate.evidence_of import line_of, policy
from support.gate.stock_results import DATE, right, write_stock

from lm_eval_moe.cli import main
from lm_eval_moe.gate import SideFiles, Verdict, check, load_policy
from lm_eval_moe.pairing import PairingRegistry

BASE = {"sw": right(60, 100), "zh": right(70, 100), "tr": right(50, 100)}
LATER = "2026-06-02T10-00-00.000001"


def gate(baseline: Path | list[Path], candidate: Path | list[Path], **settings: Any) -> Verdict:
    sides = [SideFiles(each if isinstance(each, list) else [each]) for each in (baseline, candidate)]
    return check(policy(**settings), sides[0], sides[1], today=datetime.date(2026, 6, 15))


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    return write_stock(tmp_path / "baseline", BASE)


def test_stock_results_are_paired_item_by_item_over_languages(baseline: Path, tmp_path: Path) -> None:
    # sw: the first 20 become wrong, 5 later ones right. zh: the same 20 items become wrong.
    candidate = write_stock(
        tmp_path / "candidate",
        {"sw": right(45, 100, wrong_first=20), "zh": right(50, 100, wrong_first=20), "tr": BASE["tr"]},
    )
    verdict = gate(baseline, candidate)
    sw, zh, macro = (line_of(verdict, name) for name in ("sw", "zh", "macro"))
    assert sw.p == pytest.approx(stats.binomtest(20, 25, 0.5, alternative="greater").pvalue, rel=1e-9)
    assert zh.p == pytest.approx(0.5**20, rel=1e-9)
    assert [line.benchmark for line in verdict.lines] == ["xcopa"] * 4
    assert line_of(verdict, "tr").sentence == "no score changed (100 items)"
    # 20 items lose in both languages, 5 win in one: sums of +2 and -1.
    assert macro.drop == pytest.approx(35 / 300)
    assert macro.method == "sign flip exact"
    assert verdict.exit_code == 1
    assert not verdict.notes


def test_a_missing_language_cannot_be_judged(baseline: Path, tmp_path: Path) -> None:
    candidate = write_stock(tmp_path / "candidate", {lang: BASE[lang] for lang in ("sw", "tr")})
    verdict = gate(baseline, candidate)
    assert line_of(verdict, "zh").sentence == "the candidate has no results for xcopa_zh: evaluate it as well"
    assert line_of(verdict, "macro").sentence == "the average lacks zh"
    assert verdict.exit_code == 2


def test_more_tasks_than_the_baseline_has_are_told(baseline: Path, tmp_path: Path) -> None:
    candidate = write_stock(tmp_path / "candidate", {**BASE, "th": right(5, 100)})
    verdict = gate(baseline, candidate)
    assert verdict.exit_code == 0
    assert verdict.notes == ("not judged, because the baseline lacks it: xcopa_th",)


def test_a_language_that_the_policy_lists_has_to_be_there(baseline: Path) -> None:
    rules = {"xcopa": {"languages": ["sw", "ta"]}, "xcpoa": None}
    verdict = gate(baseline, baseline, benchmarks=rules)
    assert [(line.benchmark, line.name, line.status) for line in verdict.lines] == [
        ("xcopa", "sw", "held"),
        ("xcopa", "ta", "unjudged"),
        ("xcopa", "macro", "unjudged"),
        ("xcpoa", "score", "unjudged"),
    ]
    assert "did you mean 'xcopa'" in verdict.lines[-1].sentence
    assert verdict.notes[-1] == "not judged, because the policy does not list it: xcopa_zh, xcopa_tr"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": {"xcopa_sw": 2.0, "xcopa_zh": 1.0, "xcopa_tr": 1.0}}, "task version 1.0 in the baseline, 2.0"),
        ({"n-shot": {"xcopa_sw": 5, "xcopa_zh": 0, "xcopa_tr": 0}}, "few-shot count 0 in the baseline, 5"),
    ],
)
def test_another_setup_cannot_be_judged(baseline: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    candidate = write_stock(tmp_path / "candidate", BASE, **changes)
    verdict = gate(baseline, candidate)
    assert message in line_of(verdict, "sw").sentence
    assert line_of(verdict, "zh").status == "held"
    assert verdict.exit_code == 2


def test_another_number_of_items_cannot_be_judged(baseline: Path, tmp_path: Path) -> None:
    candidate = write_stock(tmp_path / "candidate", {**BASE, "sw": right(30, 50)})
    assert "documents 100 of 500 in the baseline, 50 of 500" in line_of(gate(baseline, candidate), "sw").sentence


def test_other_documents_cannot_be_judged(baseline: Path, tmp_path: Path) -> None:
    candidate = write_stock(tmp_path / "candidate", BASE)
    log = candidate / f"samples_xcopa_sw_{DATE}.jsonl"
    log.write_text(log.read_text().replace('"doc_hash": "sw 7"', '"doc_hash": "another"'))
    line = line_of(gate(baseline, candidate), "sw")
    assert line.sentence == (
        "xcopa_sw: 1 of 100 documents have different content. Evaluate the same items as the baseline"
    )


def test_without_samples_the_policy_decides(baseline: Path, tmp_path: Path) -> None:
    candidate = write_stock(tmp_path / "candidate", {**BASE, "sw": right(30, 100)}, samples=False)
    assert gate(baseline, candidate).exit_code == 2
    verdict = gate(baseline, candidate, samples="preferred")
    sw = line_of(verdict, "sw")
    errors = [float(stats.sem(each)) for each in (BASE["sw"], right(30, 100))]
    assert sw.p == pytest.approx(stats.norm.sf(0.3 / (errors[0] ** 2 + errors[1] ** 2) ** 0.5), rel=1e-9)
    assert "by the standard errors alone, not item by item" in sw.sentence
    assert (sw.status, sw.items) == ("regression", 100)


def test_a_task_of_no_known_language_stands_for_itself(tmp_path: Path) -> None:
    first = write_stock(tmp_path / "a", {"my_task": right(60, 100)})
    second = write_stock(tmp_path / "b", {"my_task": right(20, 100)})
    (line,) = gate(first, second).lines
    assert (line.benchmark, line.name, line.kind, line.status) == ("my_task", "score", "task", "regression")


def test_of_several_dates_the_newest_counts(baseline: Path, tmp_path: Path) -> None:
    candidate = write_stock(tmp_path / "candidate", {**BASE, "sw": right(10, 100)})
    write_stock(candidate, {"sw": BASE["sw"]}, date=LATER)
    verdict = gate(baseline, candidate)
    assert line_of(verdict, "sw").after == 0.6
    assert verdict.notes == (f"of the candidate, the results of {LATER} count for xcopa_sw, not those of {DATE}",)


def test_tasks_in_several_files_are_put_together(baseline: Path, tmp_path: Path) -> None:
    parts = [write_stock(tmp_path / lang, {lang: values}) for lang, values in BASE.items()]
    files = [part / f"results_{DATE}.json" for part in parts]
    verdict = gate(baseline, files)
    assert [line.name for line in verdict.lines] == ["zh", "sw", "tr", "macro"]
    assert verdict.exit_code == 0


@pytest.mark.parametrize("case", ["two models", "truncated", "empty", "nan", "twice", "missing"])
def test_what_cannot_be_read_is_a_verdict_too(baseline: Path, tmp_path: Path, case: str) -> None:
    candidate = write_stock(tmp_path / "candidate", BASE)
    file = candidate / f"results_{DATE}.json"
    log = candidate / f"samples_xcopa_sw_{DATE}.jsonl"
    paths, message = [candidate], ""
    if case == "two models":
        paths.append(write_stock(tmp_path / "other", BASE, model="org/other"))
        message = "the candidate holds several runs: org/model, org/other"
    elif case == "truncated":
        file.write_text(file.read_text()[:200])
        message = "is not valid JSON"
    elif case == "empty":
        paths = [tmp_path / "nothing"]
        paths[0].mkdir()
        message = "no results in this directory"
    elif case == "nan":
        table = json.loads(file.read_text())
        table["results"]["xcopa_sw"]["acc,none"] = float("nan")
        file.write_text(json.dumps(table))
        message = "the score is nan"
    elif case == "twice":
        log.write_text(log.read_text() + log.read_text().splitlines()[3] + "\n")
        message = "document 3 occurs twice"
    else:
        paths = [tmp_path / "none"]
        message = "there is no such file or directory"
    verdict = gate(baseline, paths)
    (line,) = verdict.lines
    assert message in line.sentence
    assert (line.effect, verdict.exit_code) == ("unjudged", 2)


PARALLEL = """
version: 1
entries:
  - {tasks: 'sums_(?P<lang>[a-z]+)', benchmark: my_sums, item: idx}
"""


def test_a_file_says_which_task_is_which_language(tmp_path: Path) -> None:
    file = tmp_path / "parallel.yaml"
    file.write_text(PARALLEL, encoding="utf-8")
    first = write_stock(tmp_path / "a", {"sums_sw": right(60, 100), "sums_de": right(60, 100)})
    verdict = check(policy(), SideFiles([first]), SideFiles([first]), registry=PairingRegistry.default([file]))
    assert [(line.benchmark, line.name) for line in verdict.lines] == [
        ("my_sums", "de"),
        ("my_sums", "sw"),
        ("my_sums", "macro"),
    ]
    assert verdict.notes == ("the candidate is the baseline itself: the same results file",)


@pytest.mark.parametrize(
    ("name", "code"),
    [("sums_x: [y] #'\"&*", 0), ("sums_\U0001f600 日本", 0), ("- sums_%", 0), ("sums_\x1b[31m", 2)],
)
def test_a_first_policy_of_any_names_can_be_read_or_is_not_written(
    tmp_path: Path, name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_stock(tmp_path / "a", {name: right(60, 100)}, samples=False, model="m: {\x07")
    output = tmp_path / "policy.yaml"
    assert main(["gate", "init", str(folder), "-o", str(output)]) == code
    assert output.exists() == (code == 0)
    if code == 0:
        rules = load_policy(output)
        assert set(rules.benchmarks or {}) == {name}
        assert rules.samples == "preferred"
    else:
        assert "is not one line of printable text" in capsys.readouterr().err
