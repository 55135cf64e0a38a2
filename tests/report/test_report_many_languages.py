"""Figures of many languages: what is drawn, in which order, and what is folded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from support.large_study import LANGUAGES, large_runs, write_large_sweep

from lm_eval_moe.drawing.canvas import drawing
from lm_eval_moe.drawing.cells_by_languages import Gains, draw_cells_by_languages
from lm_eval_moe.drawing.palette import file_colours
from lm_eval_moe.multilingual.languages import known_languages
from lm_eval_moe.report.figures import BenchmarkSubject, ReportFigure
from lm_eval_moe.report.figures._axes import canvas, family_marker, name_points
from lm_eval_moe.report.figures._curves import Curves, Line
from lm_eval_moe.report.figures.alignment import alignment_figure
from lm_eval_moe.report.figures.differences import differences_figure
from lm_eval_moe.report.figures.scores import scores_figure
from lm_eval_moe.report.figures.sweep import sweep_heat_map
from lm_eval_moe.results import Benchmark, arrange, read_runs
from lm_eval_moe.results.sweeps import gains_to_draw, read_sweep

TIERS = ("high", "mid", "low")


@pytest.fixture(scope="module")
def benchmark_() -> Benchmark:
    (found,), _ = arrange(read_runs(large_runs()))
    return found


def rows_of(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def tier(language: str) -> str:
    return "" if language == "en" else known_languages()[language].tier


def test_scores_are_grouped_by_tier_and_sorted_the_extremes_drawn_and_all_folded(benchmark_: Benchmark) -> None:
    figure = scores_figure(BenchmarkSubject(benchmark_))
    assert figure is not None
    baseline = {lang: cell.score.estimate.value for lang, cell in benchmark_.cells[0].items()}
    expected = {
        name: sorted((lang for lang in LANGUAGES if tier(lang) == name), key=lambda lang: -baseline[lang])
        for name in ("", *TIERS)
    }
    (everything,) = figure.folded
    columns = everything.draw(file_colours()).axes
    assert len(columns) == 8  # a run each
    shown = rows_of(columns[0])
    assert sorted(shown) == sorted(LANGUAGES)
    assert [tier(lang) for lang in shown] == sorted(map(tier, shown), key=["", *TIERS].index)
    values = [baseline[lang] for lang in shown if tier(lang) == "low"]
    assert values == sorted(values, reverse=True)
    few = rows_of(figure.draw(file_colours()).axes[0])
    assert few[0] == "en"
    for name in TIERS:
        drawn = [lang for lang in few if tier(lang) == name]
        ordered = [baseline[lang] for lang in expected[name]]
        assert [baseline[lang] for lang in drawn] == [*ordered[:2], *ordered[-2:]]


def test_shares_are_never_drawn_below_zero_or_above_one(benchmark_: Benchmark) -> None:
    figure = scores_figure(BenchmarkSubject(benchmark_))
    assert figure is not None
    for axes in figure.draw(file_colours()).axes:
        low, high = axes.get_xlim()
        assert 0 <= low < high <= 100
    scatter = alignment_figure(BenchmarkSubject(benchmark_))
    assert scatter is not None
    axes = scatter.draw(file_colours()).axes[0]
    assert min(axes.get_xlim()[0], axes.get_ylim()[0]) >= 0


def test_the_largest_differences_are_drawn_and_the_mean_of_all(benchmark_: Benchmark) -> None:
    figure = differences_figure(BenchmarkSubject(benchmark_))
    assert figure is not None
    at = {name: figure.columns.index(name) for name in ("language", "difference", "verdict")}
    largest: dict[str, tuple[bool, float]] = {}
    for row in figure.rows:
        lang, size = str(row[at["language"]]), abs(float(row[at["difference"]] or 0))
        beyond = "beyond" in str(row[at["verdict"]]) or largest.get(lang, (False, 0.0))[0]
        largest[lang] = (beyond, max(size, largest.get(lang, (False, 0.0))[1]))
    shown = rows_of(figure.draw(file_colours()).axes[0])
    assert shown[-1] == "mean"
    drawn, others = shown[:-1], set(LANGUAGES) - set(shown)
    assert len(drawn) == 12
    least = min(largest[lang][1] for lang in drawn)
    assert all(largest[lang][1] <= least for lang in others)
    assert "Drawn are the 12 languages with the largest differences" in figure.caption
    assert rows_of(figure.folded[0].draw(file_colours()).axes[0])[-1] == "mean"


@pytest.mark.parametrize(("count", "folded"), [(12, False), (13, True)])
def test_a_dozen_languages_are_drawn_as_they_are(count: int, folded: bool) -> None:
    kept = [f"reading_{lang}" for lang in LANGUAGES[:count]]
    runs = [
        replace(run, results={**run.results, "results": {task: run.results["results"][task] for task in kept}})
        for run in large_runs()[:2]
    ]
    (few,), _ = arrange(read_runs(runs))
    figures = [make(BenchmarkSubject(few)) for make in (scores_figure, differences_figure)]
    assert [bool(figure and figure.folded) for figure in figures] == [folded] * 2
    assert figures[0] is not None
    assert (rows_of(figures[0].draw(file_colours()).axes[0]) == list(few.languages)) != folded
    points = Line("de", {0: (0.5, None, None)})
    curves = Curves([0], {"middle": [0]}, [replace(points, language=lang) for lang in few.languages], [], "x")
    assert curves.are_many == folded


@pytest.mark.parametrize(("count", "down"), [(20, False), (21, True)])
def test_a_map_of_more_than_twenty_columns_has_a_row_per_language(count: int, down: bool) -> None:
    languages = list(LANGUAGES[:count])
    gains = Gains(["a", "b"], languages, False, {"steered": np.ones((2, count))}, "points", 1)
    axes = draw_cells_by_languages(gains, file_colours()).axes[0]
    across = [label.get_text() for label in axes.get_xticklabels()]
    assert (rows_of(axes) if down else across) == languages


def test_names_of_points_cover_neither_points_nor_each_other() -> None:
    generator = np.random.default_rng(0)
    points = [(float(x), float(y), f"n{number}") for number, (x, y) in enumerate(generator.uniform(size=(62, 2)))]
    with drawing(file_colours()):
        figure, axes = canvas(height=3.7)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        name_points(axes, points, file_colours(), every=False)
    renderer: Any = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert 20 < len(boxes) < 62
    assert axes.texts[0].get_text() == "n0"  # the most important one
    for number, box in enumerate(boxes):
        assert not any(box.shrunk(0.8, 0.8).overlaps(other.shrunk(0.8, 0.8)) for other in boxes[number + 1 :])
        inside = box.shrunk(0.8, 0.8)
        assert not any(inside.contains(*axes.transData.transform(point[:2])) for point in points)


def test_every_family_has_a_mark_of_its_own() -> None:
    marks = {(family_marker(number), file_colours().line(number)) for number in range(48)}
    assert len(marks) == 48


def sweep_figure(folder: Path) -> tuple[Any, ReportFigure]:
    (benchmark,) = read_sweep(write_large_sweep(folder)).benchmarks
    figure = sweep_heat_map(benchmark)
    assert figure is not None
    return benchmark, figure


def test_a_sweep_of_many_languages_shows_means_of_tiers_and_folds_a_row_per_language(tmp_path: Path) -> None:
    benchmark, figure = sweep_figure(tmp_path / "sweep")
    axes = figure.draw(file_colours()).axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names[:3] == list(TIERS)
    assert names[-1] == "mean"
    assert "my" in names  # the outlier
    low = [lang for lang in benchmark.languages if tier(lang) == "low"]
    written = [text.get_text().replace("\N{MINUS SIGN}", "-") for text in axes.texts[1:]]  # after the title
    for row, cell in enumerate(benchmark.cells):
        values = [100 * cell.effects[lang].gain.value for lang in low if lang in cell.effects]
        assert float(written[row * len(names) + 2]) == pytest.approx(np.mean(values), abs=0.0501)
    columns = figure.folded[0].draw(file_colours()).axes[0]
    assert rows_of(columns) == [*benchmark.languages, "mean"]


def test_the_map_of_all_languages_crosses_out_what_is_missing(tmp_path: Path) -> None:
    benchmark, figure = sweep_figure(tmp_path / "sweep")
    missing = int((~np.isfinite(gains_to_draw(benchmark).kinds["steered"])).sum())
    assert missing == 6  # qu and ay in three cells
    axes = figure.folded[0].draw(file_colours()).axes[0]
    crosses = [line for line in axes.lines if line.get_linewidth() == 0.5 and len(line.get_xdata()) == 2]
    assert len(crosses) == 2 * missing
