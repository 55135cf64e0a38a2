"""The leaderboard for the terminal: wide tables are split by columns."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.compare.board import Board, RunRow, Section
from lm_eval_moe.compare.cells import BoardCell
from lm_eval_moe.compare.formats._base import Format, register
from lm_eval_moe.compare.wording import caption, change_text, control_text, interval_text, section_notes, value_text
from lm_eval_moe.escaping import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["render", "show"]

_NARROWEST_LABEL = 16
_WIDEST_LABEL = 44
_WIDEST_HEAD = 14
_PIPED = 120


@dataclass(frozen=True)
class _Column:
    """Header and cells as lines of text, and the cells' styles."""

    head: str
    cells: tuple[tuple[str, ...], ...]
    styles: tuple[str, ...]

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        texts = [line for cell in self.cells for line in cell] + self.head.split()
        return min(max(cell_len(text) for text in texts), max(_WIDEST_HEAD, *(len(t) for c in self.cells for t in c)))


def show(board: Board, console: Console, *, intervals: bool = False) -> None:
    """Print every table, what has to be known to read it, and the notes.

    Args:
        board: The leaderboard.
        console: Where to; its width decides how many columns stand side by side.
        intervals: Show confidence intervals below the changes.
    """
    from rich.padding import Padding
    from rich.text import Text

    for section in board.sections:
        console.print(Text(printable(caption(section)), style="bold"))
        _tables(section, console, intervals)
        for note in section_notes(section, board):
            console.print(Padding(Text(printable(note), style="dim"), (0, 0, 0, 2)))
        console.print()
    for note in board.notes:
        style = "bold red" if note.startswith("NOT COMPARABLE") else "dim"
        console.print(Text(f"Note: {printable(note)}", style=style))


def render(board: Board, title: str) -> str:
    """Return the tables as plain text of 120 columns."""
    del title
    text = io.StringIO()
    show(board, _console(file=text, width=_PIPED))
    return text.getvalue()


def _print(board: Board, intervals: bool) -> None:
    # What is piped has no width: take one that suits files and CI logs.
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    show(board, _console(width=_PIPED if piped else None), intervals=intervals)


def _console(**settings: Any) -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, **settings)


def _tables(section: Section, console: Console, intervals: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    columns = list(_columns(section, intervals))
    labels = [_label(row) for row in section.rows]
    widest = min(max(len(line) for label in labels for line in label), _WIDEST_LABEL) + 2
    # Rather wrap labels and set columns closer than split the table.
    gap, room = 2, console.width
    if _NARROWEST_LABEL + sum(column.width + gap for column in columns) > room:
        gap = 1
    label_width = max(_NARROWEST_LABEL, min(widest, room - sum(column.width + gap for column in columns)))
    parts = _split(columns, room - label_width, gap)
    for number, part in enumerate(parts):
        if len(parts) > 1:
            first = sum(len(each) for each in parts[:number]) + 1
            console.print(Text(f"  columns {first} to {first + len(part) - 1} of {len(columns)}", style="dim"))
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), show_edge=False, header_style="bold")
        table.add_column("run", width=label_width - gap, overflow="fold")
        for column in part:
            table.add_column(Text(column.head), justify="right", width=column.width, overflow="fold", vertical="top")
        for place, label in enumerate(labels):
            cells = [_styled(column.cells[place], column.styles[place]) for column in part]
            table.add_row(Text("\n".join(label)), *cells)
        console.print(table)


def _styled(lines: Sequence[str], style: str) -> Text:
    from rich.text import Text

    text = Text(lines[0])
    for line in lines[1:]:
        text.append("\n" + line, style=style)
    return text


def _label(row: RunRow) -> tuple[str, ...]:
    own = f"{row.model} + {row.steering} #{row.steering_hash[:8]}"
    base = "" if row.baseline else " (baseline)"
    if row.steering and row.label == own:
        return printable(row.model), printable(f"+ {row.steering} #{row.steering_hash[:8]}")
    return (printable(row.label) + base,)


def _columns(section: Section, intervals: bool) -> Iterator[_Column]:
    changed = any(row.baseline for row in section.rows)
    for place, head in enumerate(section.heads):
        cells = []
        for row in section.rows:
            cell = row.cells[place]
            lines = [value_text(cell, head)]
            if changed:
                lines.append(change_text(cell, head))
            if changed and intervals:
                lines += _interval_lines(interval_text(cell.change, head))
            cells.append(tuple(lines))
        yield _Column(printable(head.title), tuple(cells), tuple(_style(row.cells[place]) for row in section.rows))
    if section.has_control:
        texts = []
        for row in section.rows:
            value, interval = control_text(row, section.heads[0])
            texts.append((value, *_interval_lines(interval)))
        yield _Column("vs random control", tuple(texts), ("dim",) * len(texts))


def _interval_lines(text: str) -> list[str]:
    """Break an interval after its comma: columns stay narrow."""
    return [part.strip() for part in text.replace(",", ",\n").split("\n")] if text else []


def _style(cell: BoardCell) -> str:
    if cell.change is None or not cell.change.beyond or cell.change.better is None:
        return "dim"
    return "green" if cell.change.better else "red"


def _split(columns: Sequence[_Column], room: int, gap: int) -> list[list[_Column]]:
    parts: list[list[_Column]] = [[]]
    used = 0
    for column in columns:
        if parts[-1] and used + column.width + gap > room:
            parts.append([])
            used = 0
        parts[-1].append(column)
        used += column.width + gap
    return parts


register(Format("terminal", render, show=_print))
