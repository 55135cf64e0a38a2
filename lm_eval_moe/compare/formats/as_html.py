"""The leaderboard as one self-contained page: sortable, light and dark, no network, readable without the script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_eval_moe.compare.board import Board, Head, RunRow, Section
from lm_eval_moe.compare.cells import BoardCell
from lm_eval_moe.compare.formats._base import Format, register
from lm_eval_moe.compare.html_page import render_page
from lm_eval_moe.compare.wording import (
    caption,
    change_text,
    change_words,
    control_text,
    interval_text,
    section_notes,
    value_text,
)
from lm_eval_moe.extras import require_extra
from lm_eval_moe.results.marks import legend

__all__ = ["render"]

_FOLDER = Path(__file__).parent


def render(board: Board, title: str) -> str:
    """Return the page.

    Raises:
        UserError: Jinja is not installed.
    """
    require_extra("an HTML page", "jinja2")
    from markupsafe import Markup

    script = (_FOLDER / "sorting.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render_page(
        _FOLDER / "page.html.jinja",
        title=title,
        level=f"{100 * (1 - board.settings.alpha):g} %",
        warnings=[note for note in board.notes if note.startswith("NOT COMPARABLE")],
        notes=[note for note in board.notes if not note.startswith("NOT COMPARABLE")],
        tables=[_table(section, board) for section in board.sections],
        script=Markup(script),
        script_hash=Markup(digest),
    )


def _table(section: Section, board: Board) -> dict[str, Any]:
    heads = [
        {"title": head.title, "kind": head.kind, "best": "down" if head.higher_is_better else "up"}
        for head in section.heads
    ]
    if section.has_control:
        heads.append({"title": "vs random control", "kind": "average", "best": "down"})
    return {
        "title": section.title,
        "caption": caption(section),
        "heads": heads,
        "rows": [{**_named(row), "cells": list(_cells(section, row))} for row in section.rows],
        "notes": section_notes(section, board),
    }


def _named(row: RunRow) -> dict[str, str]:
    steering = f"{row.steering} #{row.steering_hash[:8]}" if row.steering else "" if row.baseline else "baseline"
    if row.label in (row.model, f"{row.model} + {steering}"):
        return {"label": row.model, "detail": steering}
    return {"label": row.label, "detail": " ".join(filter(None, (row.model, steering)))}


def _cells(section: Section, row: RunRow) -> Iterator[dict[str, Any]]:
    for head, cell in zip(section.heads, row.cells, strict=True):
        yield _cell(head, cell)
    if section.has_control:
        gain = row.control.average if row.control else None
        value, interval = control_text(row, section.heads[0])
        shown = {"number": gain.gain if gain else None, "value": value, "interval": interval}
        yield {"kind": "average", **shown, **dict.fromkeys(("change", "mark", "words", "title"), "")}


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
