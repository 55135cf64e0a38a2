"""A page marks numbers that are not what they seem, and judges each pair of runs by what the two share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from support.written_results import BASELINE, CHOSEN, RANDOM, STEERED, PageReader, results_of

from lm_eval_moe.report import LabelledRun, write_report

MINUS = "\N{MINUS SIGN}"


def page_of(path: Path, *runs: LabelledRun) -> PageReader:
    write_report(runs, path / "page.html", title="t")
    return PageReader((path / "page.html").read_text(encoding="utf-8"))


def pair(entry: dict[str, Any] | None = None, **routing: Any) -> list[LabelledRun]:
    steered = results_of(STEERED, steering=CHOSEN, shift=-0.05)
    steered["routing"] |= routing
    steered["routing"]["tasks"]["sums_sw"] |= entry or {}
    return [LabelledRun("plain", results_of(BASELINE)), LabelledRun("steered", steered)]


@pytest.mark.parametrize(
    ("entry", "sign", "text"),
    [
        ({"leaked_documents": 4}, "L", "(--allow_leak): a gain on them proves nothing: steered (4 of 10 in sums_sw)"),
        ({"leak_unknown": True}, "U", "which items the steering's experts were selected: steered (sums_sw)"),
        ({"steered_tokens": 0}, "N", "reached no token of the task: the run is unsteered there: steered (sums_sw)"),
    ],
)  # fmt: skip
def test_marks_stand_in_the_table_in_the_notes_and_in_the_findings(
    tmp_path: Path, entry: dict[str, Any], sign: str, text: str
) -> None:
    page = page_of(tmp_path, *pair(entry))
    for name in ("sw", "average", "without en"):
        row = page.row(name)
        assert row[3].endswith(sign)
        assert not row[1].endswith(sign)
    assert not page.row("de")[3].endswith(sign)
    assert page.text.count(text) == 2  # beside the finding on the two runs, and below the table
    assert f"{sign}: " in page.text
    plain = page_of(tmp_path, *pair())
    assert not plain.row("sw")[3].endswith(sign)
    assert text not in plain.text


def test_divergence_over_fewer_documents_says_over_how_many(tmp_path: Path) -> None:
    page = page_of(tmp_path, *pair({"curve_documents": {"divergence": 1, "entropy": 10}}))
    assert page.row("sw")[5].endswith("D")
    assert page.row("without en")[5].endswith("D")
    assert not page.row("de")[5].endswith("D")
    assert "divergence over fewer documents than were evaluated: steered (1 of 10 in sums_sw)" in page.text
    assert "are not compared: sums_sw over all documents in plain, over 1 in steered" in page.text


@pytest.mark.parametrize(
    ("routing", "reason"),
    [({"reference": "de"}, None), ({"capture": "all"}, "span prompt in plain, all in steered")],
)
def test_divergences_of_another_kind_are_not_compared(
    tmp_path: Path, routing: dict[str, Any], reason: str | None
) -> None:
    assert "middle-layer divergence to en goes from" in page_of(tmp_path, *pair()).text.replace("Middle", "middle")
    runs = pair(**routing)
    if reason is None:
        for entry in runs[1].results["routing"]["tasks"].values():
            entry["reference"] = "de"
        reason = "reference language en in plain, de in steered"
    page = page_of(tmp_path, *runs)
    assert f"divergences are not the same quantity and are not compared: {reason}" in page.text
    assert "iddle-layer divergence to en goes from" not in page.text


def test_where_the_reference_records_come_from_is_told(tmp_path: Path) -> None:
    source = {"kind": "profile", "file": "en.safetensors", "sha256": "ef" * 32, "model": "some/model", "steering": None}
    page = page_of(tmp_path, *pair(reference_source=source))
    table = next(n for n, rows in enumerate(page.tables) if any(row[0] == "Reference records" for row in rows))
    assert page.row("Reference records", table)[2] == (
        "en.safetensors (SHA-256 efefefefefefefef), model some/model, without steering"
    )
    assert (
        "R: divergence to a reference that was not steered like the run: steered (to a reference without steering)"
        in (page.text)
    )


def test_a_third_run_without_the_benchmark_hides_no_pair(tmp_path: Path) -> None:
    other = results_of({"fr": [1.0, 0.0, 1.0]})
    runs = [*pair(), LabelledRun("other", other)]
    page = page_of(tmp_path, *runs)
    alone = page_of(tmp_path, *pair())
    change = np.mean([np.subtract(STEERED[lang], BASELINE[lang]) for lang in BASELINE])
    text = f"Accuracy over 5 languages: {'+' if change > 0 else ''}{100 * change:.1f}".replace("-", MINUS)
    assert text in alone.text
    assert text in page.text
    assert page.text.count("the two runs have no score of this benchmark in common".capitalize()) == 1
    assert page.row("average")[4] == alone.row("average")[4]
    assert "other lacks en, de, tr, zh and sw" in page.text


def test_a_run_of_one_language_narrows_its_own_average_only(tmp_path: Path) -> None:
    runs = [*pair(), LabelledRun("one", results_of({"en": BASELINE["en"]}, steering=RANDOM))]
    page = page_of(tmp_path, *runs)
    alone = page_of(tmp_path, *pair())
    assert page.row("average")[:6] == alone.row("average")[:6]
    assert page.row("average")[6].endswith("F")
    assert "one (1 of 5 in average" in page.text


def test_the_kind_of_each_runs_standard_error_is_named(tmp_path: Path) -> None:
    plain, bare = results_of(BASELINE), results_of(BASELINE)
    del bare["samples"]
    page = page_of(tmp_path, LabelledRun("plain", plain), LabelledRun("bare", bare))
    row, table = page.row("average"), np.array(list(BASELINE.values()), dtype=float)
    assert row[1].endswith(f"{100 * stats.sem(table.mean(axis=0)):.1f}")
    independent = np.sqrt(np.sum(stats.sem(table, axis=1) ** 2)) / 5
    assert row[3].endswith(f"{100 * independent:.1f}I")
    assert "treat the same item in several languages as one cluster in plain; their standard errors take" in page.text
    assert "same across languages in bare." in page.text


def test_bypass_is_not_a_score(tmp_path: Path) -> None:
    bare = results_of(BASELINE)
    for task in bare["results"]:
        bare["results"][task] = {"alias": task, "bypass,none": 999, "bypass_stderr,none": "N/A"}
    page = page_of(tmp_path, LabelledRun("plain", results_of(BASELINE)), LabelledRun("bare", bare))
    assert page.row("sw")[3] == "–"
    assert "bare has no accuracy in en, de, tr, zh and sw, as it was run with --predict_only." in page.text
    alone = page_of(tmp_path, LabelledRun("bare", bare))
    assert "it was run with --predict_only: lm-eval's bypass of 999 is not a score" in alone.text
    assert "higher is better" not in alone.text


def test_runs_and_languages_that_do_not_differ_are_not_said_to_range_or_to_move(tmp_path: Path) -> None:
    scores = {lang: [0, 1, 1, 0, 1] for lang in BASELINE}
    runs = [
        LabelledRun("plain", results_of(scores)),
        LabelledRun("steered", results_of(scores, steering=CHOSEN)),
    ]
    for run in runs:
        for entry in run.results["routing"]["tasks"].values():
            if "divergence" in entry["curves"]:
                entry["curves"]["divergence"] = [0.4] * 8
    text = page_of(tmp_path, *runs).text
    assert "on average over 5 languages, the same in all of them." in text
    assert "he 4 other languages are on average level with en." in text
    assert "ivergence to en is 0.400 in early, middle and late layers alike." in text
    assert "divergence to en stays at 0.352: no change in any of the 20 values." in text
    for phrase in (" from en", " goes from ", "below en", "above en", "lowest in"):
        assert phrase not in text
