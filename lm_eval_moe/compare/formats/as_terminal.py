"""The leaderboard for the terminal: wide tables are split by columns."""

from __future__ import annotations

import io
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.compare.board import Board, RunRow, Section
from lm_eval_moe.compare.cells import BoardCell
from lm_eval_moe.compare.formats._base import Format, register
from lm_eval_moe.compare.wording import (
    are_languages_in_rows,
    caption,
    change_text,
    control_text,
    corner,
    interval_text,
    row_detail,
    section_notes,
    value_text,
)
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
    """Header and cells as lines of text, the cells' styles, and whether a change stands beside its value."""

    head: str
    cells: tuple[tuple[str, ...], ...]
    styles: tuple[str, ...]
    beside: bool = False

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        lines = [line for cell in self.cells for line in (self.text(cell).split("\n"))]
        texts = lines + self.head.split()
        return min(max(cell_len(text) for text in texts), max(_WIDEST_HEAD, *map(len, lines)))

    def text(self, cell: Sequence[str]) -> str:
        """Return a cell's lines."""
        first, *rest = cell
        return f"{first}{' ' if self.beside else chr(10)}{chr(10).join(rest)}" if rest else first


def show(board: Board, console: Console, *, intervals: bool = False) -> None:
    """Print every table, what has to be known to read it, and the notes.

    Args:
        board: The leaderboard.
        console: Where to; its width decides how many columns stand side by side.
        intervals: Show confidence intervals below the changes.
    """
    from rich.padding import Padding
    from rich.text import Text

    if board.shared:
        console.print(Text(printable(board.shared)))
        console.print()
    for section in board.sections:
        console.print(Text(printable(caption(section)), style="bold"))
        _tables(section, board, console, intervals)
        notes = section_notes(section, board)
        texts = [note for note in notes if isinstance(note, str)]
        if len(texts) < len(notes):
            texts.append("The lists are in full in files: --output FILE (.html, .md or .json).")
        for note in texts:
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


def _tables(section: Section, board: Board, console: Console, intervals: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    columns = list(_columns(section, intervals))
    labels = [_label(row, section) for row in section.rows]
    if are_languages_in_rows(section):
        columns, labels = _turned(columns, labels, section.has_control)
    widest = min(max(len(line) for label in labels for line in label), _WIDEST_LABEL) + 2
    # Rather wrap labels and set columns closer than split the table.
    gap, room = 2, console.width
    if _NARROWEST_LABEL + sum(column.width + gap for column in columns) > room:
        gap = 1
    label_width = max(_NARROWEST_LABEL, min(widest, room - sum(column.width + gap for column in columns)))
    parts = _split(columns, room - label_width, gap)
    for number, part in enumerate(parts):
        if len(parts) > 1:
            first = sum(len(part) for part in parts[:number]) + 1
            console.print(Text(f"  columns {first} to {first + len(part) - 1} of {len(columns)}", style="dim"))
        table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), show_edge=False, header_style="bold")
        table.add_column(corner(section, board), width=label_width - gap, overflow="fold")
        for column in part:
            table.add_column(Text(column.head), justify="right", width=column.width, overflow="fold", vertical="top")
        for place, label in enumerate(labels):
            cells = [_styled(column, place) for column in part]
            table.add_row(Text("\n".join(label)), *cells)
        console.print(table)


def _styled(column: _Column, place: int) -> Text:
    from rich.text import Text

    cell = column.cells[place]
    text = Text(column.text(cell))
    text.stylize(column.styles[place], len(cell[0]))
    return text


def _turned(
    columns: Sequence[_Column], labels: Sequence[tuple[str, ...]], has_control: bool
) -> tuple[list[_Column], list[tuple[str, ...]]]:
    """Turn a table round: a column a run, a row a language, and a change beside its value."""
    runs = []
    for number, label in enumerate(labels):
        cells = [column.cells[number] for column in columns]
        if has_control:  # no change stands beside it
            cells[-1] = (cells[-1][0], "", *cells[-1][1:])
        width = max(len(cell[1]) if len(cell) > 1 else 0 for cell in cells)
        padded = []
        for value, *more in cells:
            interval = [" ".join(more[1:3])] * (len(more) > 1)  # there is room for it on one line
            padded.append((value, *(change.rjust(width) for change in more[:1]), *interval, *more[3:]))
        head = "\n".join(line for text in label for line in textwrap.wrap(text, _WIDEST_HEAD))
        runs.append(_Column(head, tuple(padded), tuple(column.styles[number] for column in columns), beside=True))
    return runs, [(column.head,) for column in columns]


def _label(row: RunRow, section: Section) -> tuple[str, ...]:
    """Return a run's label, and on lines of their own its steering after a model, and what the label leaves out."""
    detail = row_detail(row, section)
    prefix = f"{row.model} + "
    lines = [row.model, f"+ {row.label.removeprefix(prefix)}"] if row.label.startswith(prefix) else [row.label]
    return tuple(map(printable, [*lines, f"({detail})"] if detail else lines))


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
