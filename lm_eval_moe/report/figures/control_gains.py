"""The gain of steered runs over random experts, by language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lm_eval_moe.drawing.canvas import drawing
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.report.controls import Gain, RunGains, gains_of, in_words
from lm_eval_moe.report.figures._axes import around_zero, run_marker
from lm_eval_moe.report.figures._base import BENCHMARK, OfBenchmark, ReportFigure
from lm_eval_moe.report.figures.scores import dot_rows
from lm_eval_moe.report.wording import Scale, listing
from lm_eval_moe.results import Benchmark
from lm_eval_moe.tables import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["control_gains_figure"]

_COLUMNS = ("benchmark", "language", "run", "metric", "draws", "gain", "low", "high", "beyond_noise")
_MEAN = "mean"


_TITLE = "Gain over random experts"


@BENCHMARK.figure("gain_over_control", order=30, title=_TITLE)
def control_gains_figure(given: OfBenchmark) -> ReportFigure | None:
    """Draw the gains as dots with 95 % intervals, a row a language and one for their mean."""
    benchmark = given.benchmark
    gains = gains_of(benchmark)
    if not gains:
        return None
    labels = listing([benchmark.runs[each.run].label for each in gains])
    rows: list[tuple[Cell, ...]] = [
        (benchmark.name, name, benchmark.runs[each.run].label, benchmark.metric.key, each.draws, *_numbers(gain))
        for each in gains
        for name, gain in _rows_of(each).items()
    ]
    return ReportFigure(
        _TITLE,
        "Steered run less the mean of its random controls: as many experts in every layer, drawn at random and steered "
        "the same way. Lines are 95 % intervals; a filled marker is a difference "
        "beyond noise (where few items changed, an exact test has to agree).",
        f"Dot plot of the gain in {benchmark.metric.title} of {labels} over random experts, by language, with 95 % "
        "intervals.",
        _COLUMNS,
        rows,
        lambda colours: _draw(benchmark, gains, colours),
        finding=" ".join(in_words(each, benchmark) for each in gains),
        key=tuple(each.run for each in gains),
    )


def _rows_of(gains: RunGains) -> dict[str, Gain]:
    return {**gains.by_language, **({_MEAN: gains.average} if gains.average else {})}


def _numbers(gain: Gain) -> tuple[Cell, ...]:
    return gain.value, gain.low, gain.high, "yes" if gain.beyond else "no"


def _draw(benchmark: Benchmark, gains: Sequence[RunGains], colours: Colours) -> Figure:
    scale = Scale(benchmark.metric)
    names = [lang for lang in benchmark.languages if any(lang in each.by_language for each in gains)]
    names += [_MEAN] if any(each.average for each in gains) else []
    with drawing(colours):
        figure, axes, offsets = dot_rows(names, len(gains), colours)
        axes.axvline(0, color=colours.muted, linewidth=0.8)
        for place, each in enumerate(gains):
            colour = colours.run(each.run)
            for name, gain in _rows_of(each).items():
                height = names.index(name) + offsets[place]
                if gain.low is not None and gain.high is not None:
                    ends = [gain.low * scale.factor, gain.high * scale.factor]
                    axes.plot(ends, [height, height], color=colour, linewidth=1.1, alpha=0.75)
                axes.plot(
                    gain.value * scale.factor,
                    height,
                    run_marker(each.run),
                    markersize=4.8,
                    color=colour,
                    markerfacecolor=colour if gain.beyond else colours.by_name["paper"],
                    markeredgewidth=1.1,
                )
        if names[-1] == _MEAN:
            axes.axhline(len(names) - 1.5, color=colours.muted, linewidth=0.6)
        around_zero(axes, 1.0 if scale.unit else 0.01)
        axes.set_xlabel(f"steered less random experts ({'percentage points' if scale.unit else 'no unit'})")
        return figure
