"""Tables of text, each kind in one place: aligned for a terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from lm_eval_moe.escaping import csv_cell

__all__ = ["TableValue", "aligned", "csv_text", "markdown_table"]

TableValue = str | int | float | None
"""A cell of a CSV table; None is an empty one."""

_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1, indent: str = "  ") -> list[str]:
    """Return rows as lines in aligned columns, two spaces apart.

    Args:
        rows: As many cells in each; a header is a row like any other.
        left: The first so many columns are aligned to the left, the others to the right.
        indent: What every line begins with.
    """
    return [(indent + "  ".join(cells)).rstrip() for cells in _padded(rows, left)]


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, pad: bool = False
) -> list[str]:
    """Return the lines of a GitHub-flavoured Markdown table.

    Args:
        header: The header's cells.
        rows: The others; what they say has to be escaped already.
        left: The first so many columns are aligned to the left, the others to the right.
        pad: Align the columns as text, too.
    """
    cells = [header, *rows]
    widths = [max(3, *(len(row[at]) for row in cells)) if pad else 3 + (at >= left) for at in range(len(header))]
    rule = ["-" * width if at < left else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    lines = [header, rule, *cells[1:]]
    return [f"| {' | '.join(line)} |" for line in (_padded(lines, left) if pad else lines)]


def csv_text(columns: Sequence[str], rows: Iterable[Iterable[TableValue]], *, end: str = "\n") -> str:
    """Return a CSV table, numbers in full; a text that a spreadsheet would take for a formula begins with ``'``.

    Args:
        columns: The header.
        rows: The rows; texts that are plain numbers stay as they are.
        end: What ends a line.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator=end)
    table.writerow(columns)
    table.writerows([_guarded(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue()


def _padded(rows: Sequence[Sequence[str]], left: int) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [*(cell.ljust(width) for cell, width in pairs[:left]), *(cell.rjust(width) for cell, width in pairs[left:])]
        for row in rows
        if (pairs := list(zip(row, widths, strict=True)))
    ]


def _guarded(text: str) -> str:
    return text if _NUMBER.fullmatch(text) else csv_cell(text)
