"""The leaderboard as one self-contained page: sortable, light and dark, no network, readable without the script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lm_eval_moe.compare.board import Board, Head, RunRow, Section
from lm_eval_moe.compare.cells import BoardCell
from lm_eval_moe.compare.formats._base import Format, register
from lm_eval_moe.compare.html_page import render_page
from lm_eval_moe.compare.wording import (
    MISSING,
    are_languages_in_rows,
    caption,
    change_text,
    change_words,
    control_text,
    corner,
    interval_text,
    row_detail,
    section_notes,
    value_text,
)
from lm_eval_moe.extras import require_extra
from lm_eval_moe.results.marks import legend

__all__ = ["render"]

_FOLDER = Path(__file__).parent
_FILTERED = 12  # languages: more of them are looked for by name


def render(board: Board, title: str) -> str:
    """Return the page.

    Raises:
        UserError: Jinja is not installed.
    """
    require_extra("an HTML page", "jinja2")
    from markupsafe import Markup

    script = (_FOLDER / "leaderboard.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render_page(
        _FOLDER / "page.html.jinja",
        title=title,
        shared=board.shared,
        level=f"{100 * (1 - board.settings.alpha):g} %",
        warnings=[note for note in board.notes if note.startswith("NOT COMPARABLE")],
        notes=[note for note in board.notes if not note.startswith("NOT COMPARABLE")],
        tables=[_table(section, board) for section in board.sections],
        script=Markup(script),
        script_hash=Markup(digest),
    )


def _table(section: Section, board: Board) -> dict[str, Any]:
    by_language = board.settings.columns == "languages"
    columns = [_column(head, by_language) for head in section.heads]
    runs = [_head(row.label, detail=row_detail(row, section)) for row in section.rows]
    cells = [list(_cells(section, row)) for row in section.rows]
    if section.has_control:
        columns.append(_head("vs random control", "average"))
    if are_languages_in_rows(section):
        table = _languages_in_rows(columns, runs, cells, by_language)
    else:
        rows = [{**run, "cells": run_cells} for run, run_cells in zip(runs, cells, strict=True)]
        table = {"heads": columns, "bodies": [rows]}
    languages = sum(bool(column["words"]) for column in columns)
    return {
        "title": section.title,
        "caption": caption(section),
        "corner": corner(section, board),
        "has_filter": languages > _FILTERED,
        "notes": section_notes(section, board),
        **table,
    }


def _languages_in_rows(
    columns: Sequence[dict[str, Any]],
    runs: Sequence[dict[str, Any]],
    cells: Sequence[Sequence[dict[str, Any]]],
    by_language: bool,
) -> dict[str, Any]:
    """Turn a table of runs by languages round: averages stand above the languages, and are not sorted with them."""
    best = next(column["best"] for column in columns if column["kind"] == "value")
    heads = [{**run, "best": best} for run in runs]
    rows = [
        {**column, "cells": list(column_cells)}
        for column, column_cells in zip(columns, zip(*cells, strict=True), strict=True)
    ]
    if by_language:
        heads.insert(0, _head("tier", best="up"))
        for row in rows:
            row["cells"].insert(0, _plain(row["tier"], row["rank"]))
    averages = [row for row in rows if row["kind"] != "value"]
    bodies = [averages, [row for row in rows if row["kind"] == "value"]]
    return {"heads": heads, "bodies": [body for body in bodies if body]}


def _head(title: str, kind: str = "value", *, best: str = "down", detail: str = "") -> dict[str, Any]:
    return {"title": title, "kind": kind, "best": best, "detail": detail, "words": "", "tier": "", "rank": None}


def _column(head: Head, by_language: bool) -> dict[str, Any]:
    """Return a column's head; of a language with its name and tier, and the words by which it is found."""
    column = _head(head.title, head.kind, best="down" if head.higher_is_better else "up")
    if head.kind != "value" or not by_language:
        return column
    from lm_eval_moe.multilingual.languages import TIERS, by_tier, known_languages

    (lang,) = head.languages
    tier = next(iter(by_tier([lang])), MISSING)  # English counts to none
    info = known_languages().get(lang)
    words = f"{lang} {tier}" + (f" {info.name} {info.family} {info.branch or ''}" if info else "")
    words = " ".join("".join(c if c.isalnum() or c == "-" else " " for c in words.lower()).split())
    rank = TIERS.index(tier) if tier in TIERS else None
    return {**column, "detail": info.name if info else "", "tier": tier, "rank": rank, "words": words}


def _cells(section: Section, row: RunRow) -> Iterator[dict[str, Any]]:
    for head, cell in zip(section.heads, row.cells, strict=True):
        yield _cell(head, cell)
    if section.has_control:
        gain = row.control.average if row.control else None
        value, interval = control_text(row, section.heads[0])
        lines = interval.replace(", rank", "\nrank")
        yield {**_plain(value, gain.gain if gain else None), "kind": "average", "interval": lines}


def _plain(value: str, number: float | None) -> dict[str, Any]:
    names = ("change", "mark", "words", "title", "interval")
    return {"kind": "value", "number": number, "value": value, **dict.fromkeys(names, "")}


def _cell(head: Head, cell: BoardCell) -> dict[str, Any]:
    change = cell.change
    marked = change is not None and change.beyond and change.better is not None
    return {
        "kind": head.kind,
        "number": cell.estimate.value if cell.estimate else None,
        "value": value_text(cell, head),
        "change": change_text(cell, head),
        "mark": ("better" if change.better else "worse") if change and marked else "",
        "words": change_words(change) if change and marked else "",
        "title": " ".join(legend((*cell.marks, *(change.marks if change else ())))),
        "interval": interval_text(change, head),
    }


register(Format("html", render, (".html", ".htm")))
