"""The gain of steered runs over random experts, by language."""

from __future__ import annotations

from lm_eval_moe.report.controls import RunGains, gains_of, in_words
from lm_eval_moe.report.figures._base import BENCHMARK, BenchmarkSubject, ReportFigure
from lm_eval_moe.report.figures._dots import MEAN, Dot, change_drawings
from lm_eval_moe.report.wording import listing
from lm_eval_moe.statistics import ControlGain
from lm_eval_moe.tables import TableValue

__all__ = ["control_gains_figure"]

_COLUMNS = (
    *("benchmark", "language", "run", "metric", "draws", "gain", "low", "high", "new_draw_low", "new_draw_high"),
    *("new_draw_p", "p_holm", "rank_p", "least_rank_p", "beyond_noise"),
)
_TITLE = "Gain over random experts"


@BENCHMARK.figure("gain_over_control", order=30, title=_TITLE)
def control_gains_figure(subject: BenchmarkSubject) -> ReportFigure | None:
    """Draw the gains as dots with 95 % intervals, a row a language and one for their mean."""
    benchmark = subject.benchmark
    gains = gains_of(benchmark)
    if not gains:
        return None
    labels = listing([benchmark.runs[run_gains.run].label for run_gains in gains])
    rows: list[tuple[TableValue, ...]] = [
        (
            benchmark.name,
            name,
            benchmark.runs[run_gains.run].label,
            benchmark.metric.key,
            run_gains.draws,
            *_numbers(run_gains, name),
        )
        for run_gains in gains
        for name in _rows_of(run_gains)
    ]
    names = [lang for lang in benchmark.languages if any(lang in run_gains.by_language for run_gains in gains)]
    dots = [
        Dot(name, run_gains.run, gain.gain, ends, _beyond(run_gains, name))
        for run_gains in gains
        for name, gain in _rows_of(run_gains).items()
        for low, high in [(gain.new_draw_low, gain.new_draw_high)]
        for ends in [(low, high) if low is not None and high is not None else None]
    ]
    caption = (
        "Steered run less the mean of its random controls: as many experts in every layer, drawn at random and steered "
        "the same way. Lines are 95 % prediction intervals for a new random draw; a filled marker is a difference "
        "beyond noise, languages corrected for each other (Holm). In the table low and high are of the mean of random "
        "sets."
    )
    alternative = (
        f"Dot plot of the gain in {benchmark.metric.title} of {labels} over random experts, by language, with 95 % "
        "prediction intervals."
    )
    label = "steered less random experts"
    drawings = change_drawings(dots, names, benchmark.metric, label, caption, alternative)
    return ReportFigure(
        _TITLE,
        f"{caption}{drawings.note}",
        alternative,
        _COLUMNS,
        rows,
        drawings.draw,
        finding=" ".join(in_words(run_gains, benchmark) for run_gains in gains),
        key=tuple(run_gains.run for run_gains in gains),
        folded=drawings.folded,
    )


def _rows_of(gains: RunGains) -> dict[str, ControlGain]:
    return {**gains.by_language, **({MEAN: gains.average} if gains.average else {})}


def _beyond(gains: RunGains, name: str) -> bool:
    return _rows_of(gains)[name].differs_from_draw if name == MEAN else name in gains.beyond


def _numbers(gains: RunGains, name: str) -> tuple[TableValue, ...]:
    gain = _rows_of(gains)[name]
    return (
        *(gain.gain, gain.low, gain.high, gain.new_draw_low, gain.new_draw_high, gain.new_draw_p),
        *(gains.corrected_p.get(name), gain.rank_p, gain.least_rank_p, "yes" if _beyond(gains, name) else "no"),
    )
