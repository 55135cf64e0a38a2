"""Every run less the baseline, by language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe.number_text import Scale
from lm_eval_moe.report.figures._axes import around_zero, drawing, run_marker, short
from lm_eval_moe.report.figures._base import ReportFigure
from lm_eval_moe.report.figures.scores import dot_rows
from lm_eval_moe.report.palette import Colours
from lm_eval_moe.report.wording import listing, sentence_case
from lm_eval_moe.results import Benchmark
from lm_eval_moe.statistics import Judgement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["differences_figure"]

_COLUMNS = (
    "benchmark",
    "language",
    "run",
    "baseline",
    "metric",
    "difference",
    "stderr",
    "low",
    "high",
    "kind",
    "verdict",
)
_MEAN = "mean"


def differences_figure(benchmark: Benchmark) -> ReportFigure | None:
    """Draw the differences to the baseline as dots with 95 % intervals, a row a language and one for their mean."""
    names = [*benchmark.languages, *([_MEAN] if len(benchmark.languages) > 1 else [])]
    runs = range(1, len(benchmark.runs))
    judged = {run: benchmark.judgements(run, benchmark.score_of) for run in runs}
    for run in runs if _MEAN in names else ():
        if (mean := benchmark.judgement(run, benchmark.shared(run), benchmark.score_of)) is not None:
            judged[run][_MEAN] = mean
    found = {(name, run): judged[run][name] for name in names for run in runs if name in judged[run]}
    if not found:
        return None
    baseline, others = benchmark.runs[0].label, [run.label for run in benchmark.runs[1:]]
    counts = sorted({len(shared) for run in range(1, len(benchmark.runs)) if (shared := benchmark.shared(run))})
    over = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    averaged = f" The mean is over the {over} languages that a run shares with the baseline."
    averaged *= len(benchmark.languages) > 1
    return ReportFigure(
        "differences",
        f"Change of {benchmark.metric.title} against {baseline}",
        "Lines are 95 % intervals of each difference by itself. A filled marker is one beyond noise, languages "
        f"corrected for each other.{averaged}",
        f"Dot plot of the difference in {benchmark.metric.title} of {listing(others)} to {baseline}, by language, with "
        "95 % intervals. The values are in the table above.",
        _COLUMNS,
        [
            (
                *(benchmark.name, name, benchmark.runs[run].label, baseline, benchmark.metric.key),
                *(each.difference.value, each.difference.stderr, *(each.interval or (None, None))),
                *(each.difference.how, each.verdict),
            )
            for (name, run), each in found.items()
        ],
        lambda colours: _draw(benchmark, names, found, colours),
        key=tuple(range(1, len(benchmark.runs))),
        tabulated=False,
    )


def _draw(benchmark: Benchmark, names: list[str], found: dict[tuple[str, int], Judgement], colours: Colours) -> Figure:
    scale = Scale(benchmark.metric)
    with drawing(colours):
        figure, axes, offsets = dot_rows(names, len(benchmark.runs) - 1, colours)
        axes.axvline(0, color=colours.muted, linewidth=0.8)
        for (name, run), each in found.items():
            height = names.index(name) + offsets[run - 1]
            if each.interval is not None:
                shown = [end * scale.factor for end in each.interval]
                axes.plot(shown, [height, height], color=colours.run(run), linewidth=1.1, alpha=0.75)
            axes.plot(
                each.difference.value * scale.factor,
                height,
                run_marker(run),
                markersize=4.8,
                color=colours.run(run),
                markerfacecolor=colours.run(run) if each.beyond else colours.by_name["paper"],
                markeredgewidth=1.1,
            )
        if names[-1] == _MEAN:
            axes.axhline(len(names) - 1.5, color=colours.muted, linewidth=0.6)
        around_zero(axes, 1.0 if scale.unit else 0.01)
        axes.set_xlabel(short(f"{sentence_case(benchmark.metric.title)} less the baseline's ({scale.axis})", 60))
        return figure
