"""Every run less the baseline, by language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe.drawing.canvas import drawing, short
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.report.figures._axes import around_zero, run_marker
from lm_eval_moe.report.figures._base import BENCHMARK, OfBenchmark, ReportFigure
from lm_eval_moe.report.figures.scores import dot_rows
from lm_eval_moe.report.wording import Scale, listing, sentence_case
from lm_eval_moe.results import Benchmark
from lm_eval_moe.statistics import Difference

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


@BENCHMARK.figure("differences", order=20, title="Change against the baseline")
def differences_figure(given: OfBenchmark) -> ReportFigure | None:
    """Draw the differences to the baseline as dots with 95 % intervals, a row a language and one for their mean."""
    benchmark = given.benchmark
    rows: list[tuple[str, tuple[str, ...]]] = [(lang, (lang,)) for lang in benchmark.languages]
    if len(benchmark.languages) > 1:
        rows.append((_MEAN, benchmark.languages))
    found = {
        (name, run): difference
        for name, languages in rows
        for run in range(1, len(benchmark.runs))
        if (difference := benchmark.difference(run, benchmark.shared(run, languages), benchmark.score_of)) is not None
    }
    if not found:
        return None
    baseline, others = benchmark.runs[0].label, [run.label for run in benchmark.runs[1:]]
    counts = sorted({len(shared) for run in range(1, len(benchmark.runs)) if (shared := benchmark.shared(run))})
    over = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    averaged = f" The mean is over the {over} languages that a run shares with the baseline."
    averaged *= len(benchmark.languages) > 1
    return ReportFigure(
        f"Change of {benchmark.metric.title} against {baseline}",
        "Lines are 95 % intervals of the difference. A filled marker is one beyond noise (where few items changed, an "
        f"exact test has to agree).{averaged}",
        f"Dot plot of the difference in {benchmark.metric.title} of {listing(others)} to {baseline}, by language, with "
        "95 % intervals. The values are in the table above.",
        _COLUMNS,
        [
            (
                *(benchmark.name, name, benchmark.runs[run].label, baseline, benchmark.metric.key),
                *(each.value, each.stderr, *(each.interval() or (None, None)), each.how, each.verdict),
            )
            for (name, run), each in found.items()
        ],
        lambda colours: _draw(benchmark, [name for name, _ in rows], found, colours),
        key=tuple(range(1, len(benchmark.runs))),
        tabulated=False,
    )


def _draw(benchmark: Benchmark, names: list[str], found: dict[tuple[str, int], Difference], colours: Colours) -> Figure:
    scale = Scale(benchmark.metric)
    with drawing(colours):
        figure, axes, offsets = dot_rows(names, len(benchmark.runs) - 1, colours)
        axes.axvline(0, color=colours.muted, linewidth=0.8)
        for (name, run), each in found.items():
            height = names.index(name) + offsets[run - 1]
            ends = each.interval()
            if ends is not None:
                shown = [end * scale.factor for end in ends]
                axes.plot(shown, [height, height], color=colours.run(run), linewidth=1.1, alpha=0.75)
            beyond = each.verdict == "beyond noise"
            axes.plot(
                each.value * scale.factor,
                height,
                run_marker(run),
                markersize=4.8,
                color=colours.run(run),
                markerfacecolor=colours.run(run) if beyond else colours.by_name["paper"],
                markeredgewidth=1.1,
            )
        if names[-1] == _MEAN:
            axes.axhline(len(names) - 1.5, color=colours.muted, linewidth=0.6)
        unit = "percentage points" if scale.unit else "no unit"
        around_zero(axes, 1.0 if scale.unit else 0.01)
        axes.set_xlabel(short(f"{sentence_case(benchmark.metric.title)} less the baseline's ({unit})", 60))
        return figure
