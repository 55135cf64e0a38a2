"""A sweep's tables: Markdown to read, CSV to compute with, JSON with everything."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from lm_eval_moe.escaping import csv_cell, markdown_cell
from lm_eval_moe.number_text import Scale
from lm_eval_moe.sweep.spec import SweepSpec
from lm_eval_moe.sweep.summary import MEAN, OTHERS, CellEffect, Effect, Summary

__all__ = ["csv_table", "markdown"]


def markdown(sweep: SweepSpec, summaries: Sequence[Summary]) -> str:
    """Return the tables of all benchmarks."""
    return "\n\n".join(_section(sweep, summary) for summary in summaries) + "\n"


def _section(sweep: SweepSpec, summary: Summary) -> str:
    whole = MEAN if len(summary.languages) > 1 else summary.languages[0]
    unit = f", {_scale(summary).axis}" if summary.is_share else ""
    lines = [f"### {summary.benchmark}: {summary.metric.removesuffix(',none')}, gain over the baseline{unit}", ""]
    lines += [*_baseline(summary, whole), ""]
    axes = [axis.name for axis in sweep.axes]
    header = [*axes, "experts", "gain", *(["random control", "over control", "95 % interval"] * (sweep.controls > 0))]
    rows = [
        [*map(markdown_cell, each.cell.texts), str(each.cell.experts), *_whole(each.effects[whole], sweep, summary)]
        for each in summary.cells
    ]
    lines += _aligned(header, rows, len(axes))
    languages = summary.languages
    if len(languages) > 1:
        header = [*axes, *languages]
        tables = {"By language": _gain, **({"Random control by language": _control} if sweep.controls else {})}
        for title, of in tables.items():
            rows = [
                [
                    *map(markdown_cell, each.cell.texts),
                    *(of(each.effects.get(name), summary) for name in summary.languages),
                ]
                for each in summary.cells
            ]
            lines += ["", f"{title}:", "", *_aligned(header, rows, len(axes))]
    lines += [f"\nSelects no expert: {', '.join(empty.texts)} ({empty.reason})." for empty in summary.empty]
    if summary.waiting:
        lines += ["", f"{summary.waiting} cells have not been run yet."]
    return "\n".join(lines)


def _baseline(summary: Summary, whole: str) -> Iterator[str]:
    if not summary.cells:
        yield "No cell has been run yet."
        return
    first = summary.cells[0].effects
    scale = _scale(summary)
    over = f", mean of {len(summary.languages)} languages" if whole == MEAN else f" in {whole}"
    yield f"Baseline {scale.number(first[whole].baseline)}{over}."
    if OTHERS in first:
        without = scale.number(first[OTHERS].baseline)
        yield f"Without {summary.reference} {without}. A gain stands with its standard error."


def _whole(effect: Effect, sweep: SweepSpec, summary: Summary) -> list[str]:
    scale = _scale(summary)
    error = "" if effect.gain.stderr is None else f" ± {scale.number(effect.gain.stderr)}"
    gain = scale.change(effect.gain.value) + error
    if not sweep.controls:
        return [gain]
    over = effect.over_control
    if over is None:
        return [gain, _control(effect, summary), "", ""]
    interval = ""
    if over.low is not None and over.high is not None:
        interval = f"{scale.change(over.low)} to {scale.change(over.high)}"
        if over.low == over.high:  # not one item differs: then there is no noise to estimate
            interval = "all alike"
    return [gain, _control(effect, summary), scale.change(over.gain), interval]


def _gain(effect: Effect | None, summary: Summary) -> str:
    return "" if effect is None else _scale(summary).change(effect.gain.value)


def _control(effect: Effect | None, summary: Summary) -> str:
    return "" if effect is None or effect.control is None else _scale(summary).change(effect.control)


def _scale(summary: Summary) -> Scale:
    return Scale(summary, plain=True)


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> list[str]:
    """Return a Markdown table that is aligned as text, too; the first ``texts`` columns are left-aligned."""
    widths = [max(3, *(len(row[column]) for row in (header, *rows))) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * width if column < texts else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return [line(header), line(rule), *map(line, rows)]


def csv_table(sweep: SweepSpec, summaries: Sequence[Summary]) -> str:
    """Return one row a benchmark, cell and language (or mean); scores as the harness reports them."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        [
            "benchmark",
            "metric",
            *(axis.key for axis in sweep.axes),
            *("experts", "steering_hash", "language", "baseline", "gain", "gain_stderr", "paired", "control_gain"),
            *("over_control", "over_control_stderr", "over_control_low", "over_control_high"),
        ]
    )
    for summary in summaries:
        for each in summary.cells:
            for language, effect in each.effects.items():
                writer.writerow([summary.benchmark, summary.metric, *_csv_row(each, language, effect)])
    return buffer.getvalue()


def _csv_row(each: CellEffect, language: str, effect: Effect) -> list[object]:
    over = effect.over_control
    numbers = [None] * 4 if over is None else [over.gain, over.stderr, over.low, over.high]
    return [
        *(_guarded(text) for text in each.cell.texts),
        *(each.cell.experts, each.cell.plan.hash, language, effect.baseline, effect.gain.value, effect.gain.stderr),
        *(effect.gain.how == "paired", effect.control, *numbers),
    ]


def _guarded(text: str) -> str:
    """Keep a spreadsheet from taking a text for a formula; a negative number is none."""
    try:
        float(text)
    except ValueError:
        return csv_cell(text)
    return text
