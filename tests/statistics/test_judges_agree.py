"""The leaderboard, the report and the gate judge the same results files, and never contradict each other."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from support.written_runs import write_run

from lm_eval_moe.compare import BoardSettings, build_board, choose_runs
from lm_eval_moe.compare.cells import Change
from lm_eval_moe.gate.check import SideFiles, check
from lm_eval_moe.gate.policy import parse_policy
from lm_eval_moe.gate.verdict import VerdictLine
from lm_eval_moe.report.figures import BenchmarkSubject
from lm_eval_moe.report.figures.differences import differences_figure
from lm_eval_moe.report.findings import findings
from lm_eval_moe.report.table import TableEntry, score_rows
from lm_eval_moe.results import Benchmark, arrange, read_runs

Scores = Mapping[str, Sequence[float]]
LANGUAGES = ("en", "de", "sw")


def right_or_wrong(better: int, worse: int, n: int) -> tuple[list[float], list[float]]:
    """Return two runs' answers to n items: ``better`` are right in the second only, ``worse`` in the first only."""
    same = n - better - worse
    rest = [1.0] * (same // 2) + [0.0] * (same - same // 2)
    return [0.0] * better + [1.0] * worse + rest, [1.0] * better + [0.0] * worse + rest


def pair(*counts: tuple[int, int, int]) -> tuple[Scores, Scores]:
    languages = [right_or_wrong(*each) for each in counts]
    first, second = ({lang: runs[side] for lang, runs in zip(LANGUAGES, languages, strict=False)} for side in (0, 1))
    return first, second


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Scores, Scores]:
    """Return two runs' scores of some languages: right or wrong, or graded; alike, or with one much better."""
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    n, count = draw(st.sampled_from([12, 30, 60])), draw(st.integers(1, 3))
    moved, gain = draw(st.sampled_from([0.02, 0.1, 0.3])), draw(st.sampled_from([-0.9, -0.3, 0.0, 0.3, 0.9]))
    graded = draw(st.booleans())
    first, second = {}, {}
    for lang in LANGUAGES[:count]:
        before = generator.random(n) if graded else generator.integers(0, 2, n).astype(float)
        target = generator.random(n) if graded else (generator.random(n) < (1 + gain) / 2).astype(float)
        changes = generator.random(n) < moved
        first[lang], second[lang] = before.tolist(), np.where(changes, target, before).tolist()
    return first, second


class Judged:
    """What the three say of a pair: of each language, and of the average where there are several.

    Args:
        first: The baseline's scores by language.
        second: The other run's.
        alpha: Level of the gate; the leaderboard's is ``level``, the report's always 0.05.
        level: Level of the leaderboard.
        without_logs: Languages whose samples logs are not there.
        run: More about how the results are written, such as their benchmark.
    """

    def __init__(
        self,
        first: Scores,
        second: Scores,
        *,
        alpha: float = 0.05,
        level: float = 0.05,
        without_logs: Sequence[str] = (),
        **run: Any,
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            paths = [write_run(Path(folder) / name, scores, **run) for name, scores in (("a", first), ("b", second))]
            for lang in without_logs:
                for log in Path(folder).glob(f"*/samples_*_{lang}_*.jsonl"):
                    log.unlink()
            chosen = choose_runs([f"base={paths[0]}", f"other={paths[1]}"])
            board = build_board(chosen.runs, BoardSettings(sort="given", alpha=level))
            (section,) = board.sections
            (self.benchmark,) = arrange(read_runs(chosen.runs))[0]
            policy = {"version": 1, "margins": {"language": 0.0, "macro": 0.0}, "minimum_items": 1, "alpha": alpha}
            policy |= {"correction": "none", "samples": "preferred"}
            verdict = check(parse_policy(policy, "p.yaml"), SideFiles([paths[0]]), SideFiles([paths[1]]))
        row = next(row for row in section.rows if row.label == "other")
        self.board: dict[str, Change] = {
            head.title: cell.change
            for head, cell in zip(section.heads, row.cells, strict=True)
            if cell.change is not None and not head.title.startswith("without ")
        }
        self.gate: dict[str, VerdictLine] = {
            "average" if line.kind == "macro" else line.name: line for line in verdict.lines
        }
        self.table: dict[str, TableEntry] = {
            each.name: each.entries[1] for each in score_rows(self.benchmark) if not each.name.startswith("without ")
        }
        self.figure = figure_of(self.benchmark)


def figure_of(benchmark: Benchmark) -> dict[str, dict[str, Any]]:
    figure = differences_figure(BenchmarkSubject(benchmark))
    assert figure is not None
    rows = [dict(zip(figure.columns, row, strict=True)) for row in figure.rows]
    return {"average" if row["language"] == "mean" else str(row["language"]): row for row in rows}


HAND_MADE = [
    pair((15, 6, 200)),  # the report said beyond noise, the leaderboard p = 0.078, the gate of the reverse p = 0.039
    pair((6, 15, 200)),
    *(pair(counts) for counts in [(16, 5, 200), (15, 5, 200), (5, 0, 100), (6, 0, 100), (0, 5, 100), (0, 6, 100)]),
    pair((6, 0, 60), (0, 0, 60), (1, 1, 60)),  # beyond chance alone, not among three
    pair((9, 0, 60), (0, 1, 60), (1, 1, 60)),
    pair((7, 0, 60), (8, 0, 60), (9, 0, 60)),
    pair((0, 0, 60), (0, 0, 60)),
]


def with_examples(test: Any) -> Any:
    for scores in HAND_MADE:
        test = example(scores)(test)
    return test


@settings(deadline=None, max_examples=40)
@with_examples
@given(pairs())
def test_leaderboard_and_report_say_the_same(scores: tuple[Scores, Scores]) -> None:
    judged = Judged(*scores)
    assert judged.board.keys() == judged.table.keys() == judged.figure.keys()
    for name, change in judged.board.items():
        drawn = judged.figure[name]
        assert judged.table[name].beyond == change.beyond
        assert (drawn["verdict"] == "beyond noise") == change.beyond
        assert drawn["difference"] == pytest.approx(change.difference.value, abs=1e-12)
        assert (drawn["low"] is None) == (change.interval is None)
        if change.interval is not None:
            assert (drawn["low"], drawn["high"]) == pytest.approx(change.interval, rel=1e-6, abs=1e-9)
    said = next(each.text for each in findings(judged.benchmark) if each.about == "other against base")
    whole = judged.board.get("average") or next(iter(judged.board.values()))
    assert ("no change in any" in said) == (whole.difference.changed == 0)
    assert (", beyond noise" in said.split(";")[0].split(". ")[0]) == whole.beyond


@settings(deadline=None, max_examples=40)
@with_examples
@given(pairs())
def test_every_interval_agrees_with_its_p(scores: tuple[Scores, Scores]) -> None:
    for change in Judged(*scores).board.values():
        assert change.p is not None
        if change.interval is None:
            assert change.difference.changed == 0
        else:
            assert (not change.interval[0] <= 0 <= change.interval[1]) == (change.p < 0.05)


@settings(deadline=None, max_examples=40)
@with_examples
@given(pairs())
@pytest.mark.parametrize("alpha", [0.025, 0.05])
def test_the_gate_says_in_one_direction_what_the_leaderboard_says_in_both(
    alpha: float, scores: tuple[Scores, Scores]
) -> None:
    judged = Judged(*scores, alpha=alpha, level=2 * alpha)
    assert judged.board.keys() == judged.gate.keys()
    for name, change in judged.board.items():
        line, worse = judged.gate[name], change.difference.value < 0
        assert change.p is not None
        assert line.p is not None
        assert line.drop == pytest.approx(-change.difference.value, abs=1e-12)
        assert (line.status == "regression") == (worse and change.p < 2 * alpha)
        if worse:
            assert line.p == pytest.approx(change.p / 2, rel=1e-6)
        if change.interval is not None:
            assert line.upper == pytest.approx(-change.interval[0], rel=1e-6, abs=1e-9)


BELEBELE = {"en": "eng_Latn", "de": "deu_Latn", "sw": "swh_Latn"}
"""The written documents lack the fields that name Belebele's items, so it is not known which are the same."""


@pytest.mark.parametrize("loss", [1, 3, 5, 8, 12, 16])
@pytest.mark.parametrize("case", ["no samples", "items without names", "samples of one language only"])
def test_they_agree_where_nothing_ties_the_languages_together(case: str, loss: int) -> None:
    first, second = pair((0, loss, 100), (0, loss, 100), (1, loss, 100))
    run: dict[str, Any] = {"samples": False}
    if case == "items without names":
        run = {"benchmark": "belebele", "metric": "acc"}
        first, second = ({BELEBELE[lang]: values for lang, values in each.items()} for each in (first, second))
    elif case == "samples of one language only":
        run = {"without_logs": ("de", "sw")}
    judged = Judged(first, second, alpha=0.025, **run)
    change, line = judged.board["average"], judged.gate["average"]
    assert change.difference.how == ("paired" if case == "items without names" else "unpaired")
    assert change.p is not None
    assert line.p == pytest.approx(change.p / 2, rel=1e-9)
    assert (line.status == "regression") == change.beyond == judged.table["average"].beyond
    assert (judged.figure["average"]["verdict"] == "beyond noise") == change.beyond
    assert change.interval is not None
    assert line.upper == pytest.approx(-change.interval[0], rel=1e-6)


def test_the_pair_that_was_judged_in_three_ways() -> None:
    judged = Judged(*pair((15, 6, 200)))
    (change,) = judged.board.values()
    assert change.p == pytest.approx(0.0784, abs=1e-4)
    assert change.interval is not None
    assert change.interval[0] < 0
    assert not change.beyond
    assert not judged.table["en"].beyond
    reverse = Judged(*pair((6, 15, 200)))
    assert not reverse.board["en"].beyond
    assert reverse.gate["en"].p == pytest.approx(0.0392, abs=1e-4)  # half: the gate asks in one direction only
    assert reverse.gate["en"].status == "regression"


def test_without_samples_they_agree_as_well(tmp_path: Path) -> None:
    for shift in (4, 8, 12, 16, 20):
        first, second = ({"en": [1.0] * count + [0.0] * (100 - count)} for count in (50, 50 + shift))
        paths = [
            write_run(tmp_path / f"{shift}{name}", scores, samples=False)
            for name, scores in (("a", first), ("b", second))
        ]
        chosen = choose_runs([f"base={paths[0]}", f"other={paths[1]}"])
        (section,) = build_board(chosen.runs, BoardSettings(sort="given")).sections
        change = next(row for row in section.rows if row.label == "other").cells[0].change
        (benchmark,) = arrange(read_runs(chosen.runs))[0]
        assert change is not None
        error = math.hypot(*(cells["en"].score.estimate.stderr or 0.0 for cells in benchmark.cells))
        assert change.p == pytest.approx(2 * stats.norm.sf(shift / 100 / error), rel=1e-9)
        assert score_rows(benchmark)[0].entries[1].beyond == change.beyond == (change.p < 0.05)  # type: ignore[operator]
