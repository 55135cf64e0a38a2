"""The main metric of every language and run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from lm_eval_moe.drawing.canvas import short
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.number_text import Scale
from lm_eval_moe.report.figures._base import BENCHMARK, BenchmarkSubject, ReportFigure
from lm_eval_moe.report.figures._dots import Dot, Drawings, draw_columns, draw_dots, drawings_of
from lm_eval_moe.report.figures._tiers import grouped_rows
from lm_eval_moe.report.wording import listing, sentence_case
from lm_eval_moe.results import Benchmark
from lm_eval_moe.statistics import score_interval
from lm_eval_moe.tables import TableValue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["scores_figure"]

_COLUMNS = ("benchmark", "language", "run", "metric", "value", "stderr", "low", "high", "documents")
_ENDS = 2


@BENCHMARK.figure("scores", order=10, title="Scores by language")
def scores_figure(subject: BenchmarkSubject) -> ReportFigure | None:
    """Draw the scores as dots with 95 % intervals, a row a language."""
    benchmark = subject.benchmark
    if not any(benchmark.cells):
        return None
    labels = listing([run.label for run in benchmark.runs])
    caption = _caption(benchmark)
    alternative = (
        f"Dot plot of {benchmark.metric.title} per language for {labels}, with 95 % intervals. The values are in the "
        "table above."
    )
    drawings = _drawings(benchmark, caption, alternative)
    return ReportFigure(
        f"{sentence_case(benchmark.metric.title)} by language",
        f"{caption}{drawings.note}",
        alternative,
        _COLUMNS,
        _rows(benchmark),
        drawings.draw,
        key=tuple(range(len(benchmark.runs))),
        tabulated=False,
        folded=drawings.folded,
    )


def _drawings(benchmark: Benchmark, caption: str, alternative: str) -> Drawings:
    scale = Scale(benchmark.metric)
    dots = [
        Dot(lang, run, estimate.value, score_interval(estimate, cells[lang].documents, share=benchmark.metric.is_share))
        for run, cells in enumerate(benchmark.cells)
        for lang in benchmark.languages
        if lang in cells and (estimate := cells[lang].score.estimate)
    ]
    label = short(f"{benchmark.metric.title} ({scale.unit or 'no unit'})", 50)
    limits = (0.0, 100.0) if scale.unit else None
    first = {dot.row: dot.value for dot in reversed(dots)}  # of the baseline, where it has one
    sign = -1.0 if benchmark.higher_is_better else 1.0
    languages = [lang for lang in benchmark.languages if lang in first]

    def order(lang: str) -> float:
        return sign * first[lang]

    def draw(colours: Colours) -> Figure:
        figure = draw_dots(dots, benchmark.languages, scale.factor, colours)
        axes = figure.axes[0]
        if limits:
            low, high = axes.get_xlim()
            axes.set_xlim(max(low, limits[0]), min(high, limits[1]))
        axes.set_xlabel(label)
        return figure

    def draw_some(names: Iterable[str]) -> Callable[[Colours], Figure]:
        groups = grouped_rows(names, order)
        return lambda colours: draw_columns(dots, groups, scale.factor, label, colours, limits=limits)

    ends = {
        lang: None
        for members in grouped_rows(languages, order).values()
        for lang in (*members[:_ENDS], *members[-_ENDS:])
    }
    note = f" Drawn are the {_ENDS} best and the {_ENDS} worst languages of every resource tier."
    sorting = f" Within a tier languages stand by the score of {benchmark.runs[0].label}, best first."
    return drawings_of(languages, draw, draw_some, list(ends), note, sorting, caption, alternative)


def _rows(benchmark: Benchmark) -> list[tuple[TableValue, ...]]:
    rows: list[tuple[TableValue, ...]] = []
    for lang in benchmark.languages:
        for run, cells in zip(benchmark.runs, benchmark.cells, strict=True):
            if lang in cells:
                estimate = cells[lang].score.estimate
                ends = score_interval(estimate, cells[lang].documents, share=benchmark.metric.is_share)
                numbers = (estimate.value, estimate.stderr, *(ends or (None, None)), cells[lang].documents or None)
                rows.append((benchmark.name, lang, run.label, benchmark.metric.key, *numbers))
    return rows


def _caption(benchmark: Benchmark) -> str:
    if not any(cell.score.estimate.stderr for cells in benchmark.cells for cell in cells.values()):
        return "The results have no standard errors of these values."
    caption = "Lines are 95 % intervals of each value."
    if len(benchmark.runs) > 1:
        caption += (
            " Runs answer the same items, so that overlapping intervals do not say that two runs are alike: the "
            "differences in the table do."
        )
    return caption
