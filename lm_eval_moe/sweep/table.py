"""A sweep's tables: Markdown to read, CSV to compute with, JSON with everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lm_eval_moe.escaping import markdown_cell
from lm_eval_moe.number_text import Scale, p_number
from lm_eval_moe.results.sweep_finding import GAIN_HEADS, sweep_finding
from lm_eval_moe.results.sweeps import MEAN, OTHERS, SweepBenchmark, SweepCell, SweepEffect
from lm_eval_moe.sweep.spec import SweepSpec
from lm_eval_moe.tables import TableValue, csv_text, markdown_table

__all__ = ["csv_table", "markdown"]


def markdown(sweep: SweepSpec, summaries: Sequence[SweepBenchmark]) -> str:
    """Return the tables of all benchmarks."""
    return "\n\n".join(_section(sweep, summary) for summary in summaries) + "\n"


def _section(sweep: SweepSpec, summary: SweepBenchmark) -> str:
    overall = summary.whole
    unit = f", {_scale(summary).axis}" if summary.metric.is_share else ""
    lines = [f"### {summary.benchmark}: {summary.metric.key.removesuffix(',none')}, gain over the baseline{unit}", ""]
    lines += [*_baseline(summary, overall), ""]
    axes = [axis.name for axis in sweep.axes]
    controls = ["random control", "over control", *GAIN_HEADS] * (sweep.controls > 0)
    header = [*axes, "experts", "gain", *controls]
    rows = [
        [*map(markdown_cell, cell.texts), str(cell.experts), *_whole(cell.effects[overall], sweep, summary)]
        for cell in summary.cells
    ]
    lines += markdown_table(header, rows, left=len(axes), pad=True)
    if sweep.controls and summary.cells:
        lines += ["", sweep_finding(summary, _scale(summary), written=markdown_cell)]
    languages = summary.languages
    if len(languages) > 1:
        header = [*axes, *languages]
        tables = {"By language": _gain, **({"Random control by language": _control} if sweep.controls else {})}
        for title, of in tables.items():
            rows = [
                [*map(markdown_cell, cell.texts), *(of(cell.effects.get(name), summary) for name in summary.languages)]
                for cell in summary.cells
            ]
            lines += ["", f"{title}:", "", *markdown_table(header, rows, left=len(axes), pad=True)]
    lines += [f"\nSelects no expert: {', '.join(empty.texts)} ({empty.reason})." for empty in summary.empty]
    if summary.waiting:
        lines += ["", f"{summary.waiting} cells have not been run yet."]
    return "\n".join(lines)


def _baseline(summary: SweepBenchmark, overall: str) -> Iterator[str]:
    if not summary.cells:
        yield "No cell has been run yet."
        return
    first = summary.cells[0].effects
    scale = _scale(summary)
    over = f", mean of {len(summary.languages)} languages" if overall == MEAN else f" in {overall}"
    yield f"Baseline {scale.number(first[overall].baseline)}{over}."
    if OTHERS in first:
        without = scale.number(first[OTHERS].baseline)
        yield f"Without {summary.reference} {without}. Gains are given with their standard errors."


def _whole(effect: SweepEffect, sweep: SweepSpec, summary: SweepBenchmark) -> list[str]:
    scale = _scale(summary)
    error = "" if effect.gain.stderr is None else f" ± {scale.number(effect.gain.stderr)}"
    gain = scale.change(effect.gain.value) + error
    if not sweep.controls:
        return [gain]
    over = effect.over_control
    if over is None:
        return [gain, _control(effect, summary), *[""] * (1 + len(GAIN_HEADS))]
    if over.identical:  # then there is no noise to estimate
        intervals = ["no item differs"] * 2
    else:
        ends = (over.low, over.high), (over.new_draw_low, over.new_draw_high)
        intervals = [scale.interval(pair).strip("[]").replace(",", " to") for pair in ends]
    numbers = ["" if p is None else p_number(p) for p in (over.rank_p, effect.corrected_p)]
    return [gain, _control(effect, summary), scale.change(over.gain), *intervals, *numbers]


def _gain(effect: SweepEffect | None, summary: SweepBenchmark) -> str:
    return "" if effect is None else _scale(summary).change(effect.gain.value)


def _control(effect: SweepEffect | None, summary: SweepBenchmark) -> str:
    return "" if effect is None or effect.control is None else _scale(summary).change(effect.control)


def _scale(summary: SweepBenchmark) -> Scale:
    return Scale(summary.metric, plain=True)


def csv_table(sweep: SweepSpec, summaries: Sequence[SweepBenchmark]) -> str:
    """Return one row a benchmark, cell and language (or mean); scores as the harness reports them."""
    columns = [
        "benchmark",
        "metric",
        *(axis.key for axis in sweep.axes),
        *("experts", "steering_hash", "language", "baseline", "gain", "gain_stderr", "paired", "control_gain"),
        *(f"over_control{name}" for name in ("", "_stderr", "_low", "_high")),
        *("new_draw_low", "new_draw_high", "new_draw_p", "rank_p", "least_rank_p", "corrected_p"),
    ]
    rows = [
        [summary.benchmark, summary.metric.key, *_csv_row(cell, language, effect)]
        for summary in summaries
        for cell in summary.cells
        for language, effect in cell.effects.items()
    ]
    return csv_text(columns, rows)


def _csv_row(cell: SweepCell, language: str, effect: SweepEffect) -> list[TableValue]:
    over = effect.over_control
    numbers: list[TableValue] = [None] * 9
    if over is not None:
        numbers = [over.gain, over.stderr, over.low, over.high, over.new_draw_low, over.new_draw_high]
        numbers += [over.new_draw_p, over.rank_p, over.least_rank_p]
    return [
        *cell.texts,
        *(cell.experts, cell.hash, language, effect.baseline, effect.gain.value, effect.gain.stderr),
        *(effect.gain.how == "paired", effect.control, *numbers, effect.corrected_p),
    ]
