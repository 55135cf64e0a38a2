"""The leaderboard's numbers against SciPy, statsmodels and hand-worked examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from support.score_oracle import score_interval, score_of_values
from support.written_runs import sem, write_run

from lm_eval_moe.compare import Board, BoardSettings, Section, build_board, choose_runs
from lm_eval_moe.compare.board import RunRow
from lm_eval_moe.compare.cells import BoardCell
from lm_eval_moe.compare.formats.as_csv import records
from lm_eval_moe.compare.wording import control_text, section_notes
from lm_eval_moe.errors import UserError

LANGUAGES = ("en", "de", "sw", "th", "zh")
RATE = {"en": 0.9, "de": 0.8, "sw": 0.45, "th": 0.5, "zh": 0.7}
GAIN = {"en": 0.0, "de": 0.05, "sw": 0.3, "th": 0.02, "zh": -0.25}


def answers(seed: int, shift: float = 0.0, items: int = 60) -> dict[str, list[float]]:
    """Return right and wrong answers; with a shift, GAIN of the items (by language) change sides."""
    common = np.random.default_rng(1)
    generator = np.random.default_rng(seed)
    found = {}
    for lang in LANGUAGES:
        right = (common.random(items) < RATE[lang]).astype(float)
        turned = generator.random(items) < abs(GAIN[lang]) * shift
        right[turned] = float(GAIN[lang] > 0)
        found[lang] = right.tolist()
    return found


BASE, SOFT = answers(2), answers(3, shift=1.0)


def board_of(*arguments: object, **settings: Any) -> Board:
    chosen = choose_runs([str(each) for each in arguments])
    return build_board(chosen.runs, BoardSettings(**{"sort": "given", **settings}), notes=chosen.notes)


def cell(section: Section, label: str, column: str) -> BoardCell:
    row = next(row for row in section.rows if row.label == label)
    return row.cells[[head.title for head in section.heads].index(column)]


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [f"base={write_run(tmp_path / 'a', BASE)}", f"soft={write_run(tmp_path / 'b', SOFT, steering='soft')}"]


def changes_in(lang: str) -> np.ndarray:
    return np.subtract(SOFT[lang], BASE[lang])


def mcnemar_p(lang: str) -> float:
    better, worse = int((changes_in(lang) > 0).sum()), int((changes_in(lang) < 0).sum())
    return float(mcnemar([[9, better], [worse, 9]], exact=True).pvalue) if better + worse else 1.0


def test_a_language_is_mcnemars_test_with_holm_over_the_languages(two: list[str]) -> None:
    (section,) = board_of(*two).sections
    adjusted = multipletests([mcnemar_p(lang) for lang in LANGUAGES], method="holm")[1]
    for lang, expected in zip(LANGUAGES, adjusted, strict=True):
        change = cell(section, "soft", lang).change
        assert change is not None
        assert change.difference.value == pytest.approx(changes_in(lang).mean(), abs=1e-12)
        assert change.p == pytest.approx(mcnemar_p(lang), abs=1e-9)
        assert change.adjusted_p == pytest.approx(expected, abs=1e-9)
        assert change.beyond == (expected < 0.05)
    assert [lang for lang in LANGUAGES if cell(section, "soft", lang).change.beyond] == ["sw", "zh"]  # type: ignore[union-attr]
    assert cell(section, "soft", "sw").change.better is True  # type: ignore[union-attr]
    assert cell(section, "soft", "zh").change.better is False  # type: ignore[union-attr]


def test_a_languages_interval_is_tangos_score_interval(two: list[str]) -> None:
    (section,) = board_of(*two, alpha=0.1).sections
    for lang in ("de", "sw", "zh"):
        better, worse = int((changes_in(lang) > 0).sum()), int((changes_in(lang) < 0).sum())
        change = cell(section, "soft", lang).change
        assert change is not None
        assert change.interval == pytest.approx(score_interval(better, worse, len(BASE[lang]), 0.9), abs=1e-6)


@pytest.mark.parametrize(("column", "languages"), [("average", LANGUAGES), ("without en", LANGUAGES[1:])])
def test_an_average_clusters_an_items_languages(two: list[str], column: str, languages: Sequence[str]) -> None:
    (section,) = board_of(*two).sections
    found = cell(section, "soft", column)
    by_item = np.array([changes_in(lang) for lang in languages]).mean(axis=0)
    assert found.change is not None
    assert found.change.difference.value == pytest.approx(by_item.mean(), abs=1e-12)
    mean = by_item.mean()
    away = np.sqrt(np.abs(by_item - mean).max() * (1 + abs(mean)))  # a language's item changes by 1 in both directions
    low, high = found.change.interval or (0.0, 0.0)
    critical = pytest.approx(stats.t.ppf(0.975, len(by_item) - 1), abs=1e-3)
    assert score_of_values(by_item, mean + away, high) == critical
    assert score_of_values(-by_item, away - mean, -low) == critical
    sampled = stats.permutation_test(
        (by_item, np.zeros(len(by_item))),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        random_state=1,
    ).pvalue
    assert found.change.method == "sign flip exact"
    assert found.change.p == pytest.approx(sampled, abs=4 * np.sqrt(sampled * (1 - sampled) / 20_000) + 1e-4)
    assert found.estimate is not None
    scores = np.array([SOFT[lang] for lang in languages])
    assert found.estimate.value == pytest.approx(scores.mean(), abs=1e-12)
    assert found.estimate.stderr == pytest.approx(stats.sem(scores.mean(axis=0)), abs=1e-9)


def test_without_samples_the_comparison_is_unpaired_and_says_so(tmp_path: Path) -> None:
    paths = write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", SOFT, steering="soft", samples=False)
    board = board_of(f"base={paths[0]}", f"soft={paths[1]}")
    (section,) = board.sections
    change = cell(section, "soft", "sw").change
    assert change is not None
    error = np.hypot(sem(BASE["sw"]), sem(SOFT["sw"]))
    assert change.p == pytest.approx(2 * stats.norm.sf(abs(changes_in("sw").mean()) / error), abs=1e-9)
    assert change.interval == pytest.approx(stats.norm.interval(0.95, changes_in("sw").mean(), error), abs=1e-9)
    average = cell(section, "soft", "average").change
    assert average is not None
    errors = [np.hypot(sem(BASE[lang]), sem(SOFT[lang])) for lang in LANGUAGES]
    assert average.difference.stderr == pytest.approx(np.mean(errors), abs=1e-12)
    assert any(
        note.startswith("UNPAIRED, from the standard errors alone: soft.") for note in section_notes(section, board)
    )


def test_values_that_are_no_right_or_wrong_are_tested_by_permutation(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    first = {"sw": generator.normal(50, 5, 80).round(3).tolist()}
    second = {"sw": (np.array(first["sw"]) + generator.normal(1.0, 3, 80)).round(3).tolist()}
    paths = (
        write_run(tmp_path / "a", first, metric="chrf"),
        write_run(tmp_path / "b", second, metric="chrf", steering="s"),
    )
    (section,) = board_of(f"base={paths[0]}", f"soft={paths[1]}").sections
    change = cell(section, "soft", "sw").change
    assert change is not None
    assert change.method == "sign flip sampled"
    expected = stats.ttest_rel(second["sw"], first["sw"])
    assert change.p == pytest.approx(expected.pvalue, abs=0.01)


def test_divergence_is_a_column_and_closer_is_better(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    far = {lang: generator.normal(0.4, 0.02, 60).tolist() for lang in LANGUAGES[1:]}
    near = {lang: (np.array(values) - 0.05).tolist() for lang, values in far.items()}
    paths = (
        write_run(tmp_path / "a", BASE, divergence=far),
        write_run(tmp_path / "b", SOFT, divergence=near, steering="s"),
    )
    (section,) = board_of(f"base={paths[0]}", f"soft={paths[1]}").sections
    found = cell(section, "soft", "routing divergence")
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(np.mean(list(near.values())))
    assert found.change is not None
    assert found.change.difference.value == pytest.approx(-0.05)
    assert (found.change.beyond, found.change.better) == (True, True)
    (section,) = board_of(f"base={paths[0]}", f"soft={paths[1]}", sort="routing divergence").sections
    assert [row.label for row in section.rows] == ["soft", "base"]  # the closer one first


def test_default_baseline_is_the_unsteered_run_of_the_same_model(tmp_path: Path) -> None:
    write_run(tmp_path / "one" / "plain", BASE, model="org/one")
    write_run(tmp_path / "one" / "soft", SOFT, model="org/one", steering="soft")
    write_run(tmp_path / "two" / "plain", BASE, model="org/two")
    write_run(tmp_path / "two" / "soft", SOFT, model="org/two", steering="soft")
    (section,) = board_of(tmp_path).sections
    baselines = {row.label.split(" #")[0]: row.baseline for row in section.rows}
    assert baselines == {
        "org/one": None,
        "org/one + soft": "org/one",
        "org/two": None,
        "org/two + soft": "org/two",
    }


def test_unsteered_models_are_compared_with_the_first(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write_run(tmp_path / name, BASE, model=f"org/{name}")
    (section,) = board_of(tmp_path).sections
    assert [row.baseline for row in section.rows] == [None, "org/one", "org/one"]


def test_the_baseline_can_be_named_and_a_wrong_name_is_refused(two: list[str]) -> None:
    (section,) = board_of(*two, baseline="soft").sections
    assert cell(section, "base", "sw").change.difference.value == pytest.approx(-changes_in("sw").mean())  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"no run is called 'sofd' \(did you mean 'soft'\?\)"):
        board_of(*two, baseline="sofd")


def test_a_language_missing_in_one_run_narrows_that_runs_averages_and_is_said(tmp_path: Path) -> None:
    fewer = {lang: values for lang, values in SOFT.items() if lang != "th"}
    paths = write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", fewer, steering="soft")
    (section,) = board_of(f"base={paths[0]}", f"soft={paths[1]}").sections
    assert cell(section, "soft", "th") == BoardCell(None, None)
    base, soft = (cell(section, label, "average") for label in ("base", "soft"))
    assert base.estimate is not None
    assert base.estimate.value == pytest.approx(np.mean(list(BASE.values())))
    assert base.marks == ()
    assert soft.estimate is not None
    assert soft.estimate.value == pytest.approx(np.mean(list(fewer.values())))
    assert [(mark.kind, mark.count, mark.of) for mark in soft.marks] == [("fewer languages", 4, 5)]
    assert soft.change is not None
    assert soft.change.languages == tuple(lang for lang in section.heads[0].languages if lang != "th")
    assert soft.change.difference.value == pytest.approx(np.mean([changes_in(lang) for lang in fewer]))
    assert any("soft lacks th" in note for note in section.notes)


def test_a_run_of_one_language_does_not_narrow_the_others_and_is_no_rank_among_them(tmp_path: Path) -> None:
    """Its average would be the best: it is over English alone."""
    paths = (
        write_run(tmp_path / "a", BASE),
        write_run(tmp_path / "b", SOFT, steering="soft"),
        write_run(tmp_path / "c", {"en": [1.0] * 60}, steering="english"),
    )
    (section,) = board_of(
        *(f"{n}={p}" for n, p in zip(("base", "soft", "one"), paths, strict=True)), sort="average"
    ).sections
    assert [row.label for row in section.rows][-1] == "one"
    average = cell(section, "soft", "average")
    assert average.languages == section.heads[0].languages
    assert len(average.languages) == 5
    assert average.change is not None
    assert len(average.change.languages) == 5
    one = cell(section, "one", "average")
    assert one.languages == ("en",)
    assert one.change is not None
    assert one.change.difference.value == pytest.approx(1 - np.mean(BASE["en"]))
    assert cell(section, "one", "without en") == BoardCell(None, None)


def test_a_baseline_with_fewer_languages_narrows_the_change_and_not_the_value(tmp_path: Path) -> None:
    fewer = {lang: values for lang, values in BASE.items() if lang != "th"}
    paths = write_run(tmp_path / "a", fewer), write_run(tmp_path / "b", SOFT, steering="soft")
    (section,) = board_of(f"base={paths[0]}", f"soft={paths[1]}").sections
    soft = cell(section, "soft", "average")
    assert soft.estimate is not None
    assert soft.estimate.value == pytest.approx(np.mean(list(SOFT.values())))
    assert soft.marks == ()
    assert soft.change is not None
    assert soft.change.difference.value == pytest.approx(np.mean([changes_in(lang) for lang in fewer]))
    assert [(mark.kind, mark.where, mark.count, mark.of) for mark in soft.change.marks] == [
        ("fewer languages", "the change of average", 4, 5)
    ]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("tiers", {"high": ("de", "zh"), "mid": ("th",), "low": ("sw",)}),
        ("scripts", {"Latn": ("en", "de", "sw"), "Hans": ("zh",), "Thai": ("th",)}),
        (
            "families",
            {"Indo-European": ("en", "de"), "Atlantic-Congo": ("sw",), "Sino-Tibetan": ("zh",), "Tai-Kadai": ("th",)},
        ),
    ],
)
def test_languages_are_grouped(two: list[str], columns: Any, expected: dict[str, tuple[str, ...]]) -> None:
    (section,) = board_of(*two, columns=columns).sections
    found = {head.title: set(head.languages) for head in section.heads if head.kind == "value"}
    assert found == {name: set(languages) for name, languages in expected.items()}
    for name, languages in expected.items():
        value = cell(section, "soft", name).estimate
        assert value is not None
        assert value.value == pytest.approx(np.mean([SOFT[lang] for lang in languages]))


def test_english_counts_to_no_tier_unless_it_is_alone(two: list[str], tmp_path: Path) -> None:
    (section,) = board_of(*two, columns="tiers").sections
    assert "English belongs to no tier, as in the groups of tasks." in section.notes
    (alone,) = board_of(write_run(tmp_path / "alone", {"en": BASE["en"]}), columns="tiers").sections
    assert [head.languages for head in alone.heads if head.kind == "value"] == [("en",)]


def test_benchmarks_as_columns_and_tasks_of_no_language(tmp_path: Path) -> None:
    write_run(tmp_path / "a", BASE)
    write_run(tmp_path / "a", {"": [1.0, 0.0, 1.0]}, benchmark="my_quiz", date="2026-03-01T11-00-00.000001")
    (section,) = board_of(tmp_path, columns="benchmarks").sections
    (row,) = section.rows
    assert [head.title for head in section.heads] == ["mgsm_direct", "my_quiz"]
    assert [cell.estimate.value for cell in row.cells if cell.estimate] == pytest.approx(
        [np.mean(list(BASE.values())), 2 / 3]
    )
    languages, single = board_of(tmp_path).sections
    assert (languages.title, single.title) == ("mgsm_direct", "tasks of no known language")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 4.0}, "task version of 5 tasks .*: 3.0 in base, 4.0 in soft"),
        ({"few_shot": 5}, "few-shot count of 5 tasks .*: 0 in base, 5 in soft"),
        ({"prompt": "Frage: "}, "prompts of 5 tasks .*: base and soft have others"),
        ({"scores": answers(3, 1.0, items=40)}, "documents of 5 tasks .*: 60 of 250 in base, 40 of 250 in soft"),
    ],
)
def test_runs_that_were_set_up_differently_are_refused_unless_allowed(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    paths = write_run(tmp_path / "a", BASE), write_run(tmp_path / "b", **{"scores": SOFT, "steering": "s", **change})
    arguments = f"base={paths[0]}", f"soft={paths[1]}"
    with pytest.raises(UserError, match=message) as caught:
        board_of(*arguments)
    assert "--allow-mismatch" in (caught.value.fix or "")
    board = board_of(*arguments, allow_mismatch=True)
    assert any(note.startswith("NOT COMPARABLE: ") for note in board.notes)
    # Other documents are never paired with each other.
    paired = cell(board.sections[0], "soft", "sw").change.difference.how == "paired"  # type: ignore[union-attr]
    assert paired == ("scores" not in change)


def controlled(folder: Path, entry: dict[str, Any]) -> Section:
    """Return the section of a baseline and a run with the same gain over its random controls in all languages."""
    path = write_run(folder / "b", SOFT, steering="soft")
    results = json.loads(path.read_text())
    results["routing"]["control"] = {
        "seeds": list(range(1, len(entry["per_control"]) + 1)),
        "tasks": {f"mgsm_direct_{lang}": {"exact_match,flexible-extract": entry} for lang in LANGUAGES},
    }
    path.write_text(json.dumps(results))
    (section,) = board_of(write_run(folder / "a", BASE), path).sections
    return section


def test_a_language_differs_from_random_experts_only_after_holms_correction(tmp_path: Path) -> None:
    entry = {"steered": 0.6, "per_control": [0.51] * 19, "gain": 0.09, "stderr": 0.09 / 2.33, "low": 0.0, "high": 0.2}
    values = records(Board((controlled(tmp_path, entry),), "", (), BoardSettings()))
    languages = [each for each in values if each["least_rank_p"] is not None and each["column"] != "average"]
    p = 2 * stats.norm.sf(2.33)
    assert len(languages) == len(LANGUAGES) == 5
    for each in languages:
        assert (each["p"], each["p_holm"]) == (pytest.approx(p, rel=1e-3), pytest.approx(5 * p, rel=1e-3))
        assert p < 0.05 < 5 * p
        assert each["beyond_chance"] is False


@pytest.mark.parametrize(("higher_is_better", "mark"), [(True, "▲"), (False, "▼")])
def test_a_gain_over_random_experts_is_marked_in_the_direction_of_the_metric(
    higher_is_better: bool, mark: str, tmp_path: Path
) -> None:
    entry = {"steered": 0.6, "per_control": [0.5, 0.51] * 10, "gain": 0.095, "stderr": 0.01, "low": 0.0, "high": 0.2}
    section = controlled(tmp_path, entry)
    (row,) = (row for row in section.rows if row.control)
    text, more = control_text(row, replace(section.heads[0], higher_is_better=higher_is_better))
    assert text == f"+9.5{mark}"
    assert more.startswith("[+")


def test_the_gain_over_random_controls_is_shown(tmp_path: Path) -> None:
    entry = {"steered": 0.6, "per_control": [0.5, 0.52], "gain": 0.09, "stderr": 0.03, "low": 0.03, "high": 0.15}
    section = controlled(tmp_path, entry)
    gains = {row.label.split(" ")[0]: row.control for row in section.rows if row.control}
    (found,) = gains.values()
    z95 = 1.959963984540054
    assert found.seeds == 2
    assert found.average is not None
    # The items of the languages are as alike as can be, the two draws are the same ones in all.
    items, draws = 0.03**2 - 0.0002 / 2, 0.0002
    half = [(z95**2 * items + stats.t.ppf(0.975, 1) ** 2 * k * draws) ** 0.5 for k in (0.5, 1.5)]
    assert (found.average.gain, found.average.low) == pytest.approx((0.09, 0.09 - half[0]))
    assert found.average.new_draw_low == pytest.approx(0.09 - half[1])
    assert found.average.rank_p == pytest.approx(1 / 3)
    assert set(found.by_language) == set(LANGUAGES)
    values = [each for each in records(Board((section,), "", (), BoardSettings())) if each["least_rank_p"] is not None]
    assert {each["kind"] for each in values} == {"gain over a new random draw"}
    new = next(each for each in values if each["column"] == "sw")
    p = found.by_language["sw"].new_draw_p
    assert p is not None
    assert (new["p"], new["p_holm"], new["beyond_chance"]) == (p, pytest.approx(min(5 * p, 1)), False)
    # What the run itself reported stays.
    assert (found.by_language["sw"].low, found.by_language["sw"].high) == (0.03, 0.15)


def test_rows_are_sorted_best_first_and_a_wrong_column_is_refused(two: list[str]) -> None:
    (section,) = board_of(*two, sort="zh").sections
    assert [row.label for row in section.rows] == ["base", "soft"]
    (section,) = board_of(*two, sort="sw").sections
    assert [row.label for row in section.rows] == ["soft", "base"]
    with pytest.raises(UserError, match="there is no column 'swa'"):
        board_of(*two, sort="swa")


def labels(rows: Sequence[RunRow]) -> list[str]:
    return [row.label for row in rows]


def test_runs_are_labelled_and_picked(tmp_path: Path) -> None:
    write_run(tmp_path / "x" / "a", BASE)
    write_run(tmp_path / "x" / "b", SOFT, steering="soft")
    write_run(tmp_path / "x" / "c", SOFT, steering="hard")
    chosen = choose_runs([str(tmp_path)], labels=["*soft*=gentle"], globs=["unsteered", "gentle"])
    assert [run.label for run in chosen.runs] == ["unsteered", "gentle"]
    with pytest.raises(UserError, match=r"'\*' fits 3 runs"):
        choose_runs([str(tmp_path)], labels=["*=x"])
    with pytest.raises(UserError, match="'nothing' matches no run"):
        choose_runs([str(tmp_path)], globs=["nothing"])
    with pytest.raises(UserError, match="the name 'a' is given to several paths"):
        choose_runs([f"a={tmp_path / 'x' / 'a'}", f"a={tmp_path / 'x' / 'b'}"])
    with pytest.raises(UserError, match="the label 'same' is given to several runs"):
        choose_runs([str(tmp_path)], labels=["*soft*=same", "*hard*=same"])


def test_what_newer_dates_replace_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, BASE)
    write_run(tmp_path, SOFT, date="2026-04-01T00-00-00.000001")
    chosen = choose_runs([str(tmp_path)])
    assert len(chosen.runs) == 1
    assert "of several dates the newest counts, 2026-04-01T00-00-00.000001" in chosen.notes[0]
    assert len(choose_runs([str(tmp_path)], all_dates=True).runs) == 2
