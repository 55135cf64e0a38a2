"""The gain of steered runs over random experts, by language."""

from __future__ import annotations

from lm_eval_moe.compare.control import Gain
from lm_eval_moe.report.controls import RunGains, gains_of, in_words
from lm_eval_moe.report.figures._base import BENCHMARK, OfBenchmark, ReportFigure
from lm_eval_moe.report.figures._dots import MEAN, Dot, draw_changes
from lm_eval_moe.report.wording import listing
from lm_eval_moe.tables import Cell

__all__ = ["control_gains_figure"]

_COLUMNS = ("benchmark", "language", "run", "metric", "draws", "gain", "low", "high", "beyond_noise")
_TITLE = "Gain over random experts"


@BENCHMARK.figure("gain_over_control", order=30, title=_TITLE)
def control_gains_figure(subject: OfBenchmark) -> ReportFigure | None:
    """Draw the gains as dots with 95 % intervals, a row a language and one for their mean."""
    benchmark = subject.benchmark
    gains = gains_of(benchmark)
    if not gains:
        return None
    labels = listing([benchmark.runs[each.run].label for each in gains])
    rows: list[tuple[Cell, ...]] = [
        (benchmark.name, name, benchmark.runs[each.run].label, benchmark.metric.key, each.draws, *_numbers(gain))
        for each in gains
        for name, gain in _rows_of(each).items()
    ]
    names = [lang for lang in benchmark.languages if any(lang in each.by_language for each in gains)]
    names += [MEAN] if any(each.average for each in gains) else []
    dots = [
        Dot(name, each.run, gain.value, ends, gain.beyond)
        for each in gains
        for name, gain in _rows_of(each).items()
        for ends in [(gain.low, gain.high) if gain.low is not None and gain.high is not None else None]
    ]
    return ReportFigure(
        _TITLE,
        "Steered run less the mean of its random controls: as many experts in every layer, drawn at random and steered "
        "the same way. Lines are 95 % intervals; a filled marker is a difference "
        "beyond noise.",
        f"Dot plot of the gain in {benchmark.metric.title} of {labels} over random experts, by language, with 95 % "
        "intervals.",
        _COLUMNS,
        rows,
        lambda colours: draw_changes(dots, names, benchmark.metric, "steered less random experts", colours),
        finding=" ".join(in_words(each, benchmark) for each in gains),
        key=tuple(each.run for each in gains),
    )


def _rows_of(gains: RunGains) -> dict[str, Gain]:
    return {**gains.by_language, **({MEAN: gains.average} if gains.average else {})}


def _numbers(gain: Gain) -> tuple[Cell, ...]:
    return gain.value, gain.low, gain.high, "yes" if gain.beyond else "no"
