"""One line a value: run, column, value, standard error, change, interval, p."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lm_eval_moe.compare.board import Board, Head, RunRow, Section
from lm_eval_moe.compare.cells import BoardCell
from lm_eval_moe.compare.formats._base import Format, register
from lm_eval_moe.results.marks import Mark
from lm_eval_moe.routing_fields.divergence import DIVERGENCE
from lm_eval_moe.statistics import ALPHA, corrected_new_draws, is_beyond_chance
from lm_eval_moe.tables import TableValue, csv_text

__all__ = ["FIELDS", "records", "render"]

FIELDS = (
    *("table", "run", "model", "steering", "steering_hash", "column", "kind", "languages", "metric", "value", "stderr"),
    *("baseline", "change", "change_stderr", "low", "high", "p", "p_holm", "beyond_chance", "paired", "method"),
    *("values", "changed", "stderr_kind", "change_languages", "marks", "change_marks", "rank_p", "least_rank_p"),
)


def records(board: Board) -> Iterator[dict[str, TableValue]]:
    """Yield one record a value, and two for every gain over random controls: over a new draw, and over their mean."""
    for section in board.sections:
        for row in section.rows:
            for head, cell in zip(section.heads, row.cells, strict=True):
                yield _in_order(_record(section, row, head, cell))
            yield from map(_in_order, _controls(section, row))


def _in_order(values: Mapping[str, TableValue]) -> dict[str, TableValue]:
    return {field: values.get(field) for field in FIELDS}


def _record(section: Section, row: RunRow, head: Head, cell: BoardCell) -> dict[str, TableValue]:
    values = _run_fields(section, row) | {
        "column": head.title,
        "kind": head.kind,
        "languages": " ".join(cell.languages),
        "metric": head.metric.key if head.metric else DIVERGENCE.key,
        "value": cell.estimate.value if cell.estimate else None,
        "stderr": cell.estimate.stderr if cell.estimate else None,
        "stderr_kind": cell.estimate.kind if cell.estimate else None,
        "baseline": row.baseline,
        "marks": _kinds(cell.marks),
    }
    change = cell.change
    if change is not None:
        low, high = change.interval or (None, None)
        values |= {
            "change": change.difference.value,
            "change_stderr": change.difference.stderr,
            "low": low,
            "high": high,
            "p": change.p,
            "p_holm": change.adjusted_p if head.kind == "value" else None,
            "beyond_chance": change.beyond,
            "paired": change.difference.how == "paired",
            "method": change.method,
            "values": change.difference.values,
            "changed": change.difference.changed,
            "change_languages": " ".join(change.languages),
            "change_marks": _kinds(change.marks),
        }
    return values


def _kinds(marks: Sequence[Mark]) -> str | None:
    return "; ".join(dict.fromkeys(mark.kind for mark in marks)) or None


def _run_fields(section: Section, row: RunRow) -> dict[str, TableValue]:
    return {
        "table": section.title,
        "run": row.label,
        "model": row.model,
        "steering": row.steering or None,
        "steering_hash": row.steering_hash or None,
    }


def _controls(section: Section, row: RunRow) -> Iterator[dict[str, TableValue]]:
    if row.control is None:
        return
    control, languages = row.control, row.control.by_language
    metric = next((head.metric.key for head in section.heads if head.metric), None)
    holm = dict(zip(languages, corrected_new_draws([*languages.values()]), strict=True))
    for name, gain in (("average", control.average), *languages.items()):
        if gain is None:
            continue
        shared = _run_fields(section, row) | {
            "column": name,
            "metric": metric,
            "baseline": f"{control.seeds} random draws",
            "change": gain.gain,
        }
        p = gain.new_draw_p if name == "average" else holm[name]
        yield shared | {
            "kind": "gain over a new random draw",
            "low": gain.new_draw_low,
            "high": gain.new_draw_high,
            "p": gain.new_draw_p,
            "p_holm": holm.get(name),
            "beyond_chance": is_beyond_chance(p, ALPHA),
            "rank_p": gain.rank_p,
            "least_rank_p": gain.least_rank_p,
        }
        yield shared | {
            "kind": "gain over the mean of random draws",
            "change_stderr": gain.stderr,
            "low": gain.low,
            "high": gain.high,
        }


def render(board: Board, title: str) -> str:
    """Return the values as CSV (RFC 4180). Texts that a spreadsheet would take for a formula begin with ``'``."""
    del title
    return csv_text(FIELDS, (record.values() for record in records(board)), end="\r\n")


register(Format("csv", render, (".csv",)))
