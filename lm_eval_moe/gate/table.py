"""The verdict in a terminal."""

from __future__ import annotations

import io
import shutil
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lm_eval_moe.escaping import printable
from lm_eval_moe.gate.cells import explained, flip_tables, footer, tables_of
from lm_eval_moe.gate.power import PowerRow
from lm_eval_moe.gate.verdict import Verdict, VerdictLine
from lm_eval_moe.number_text import Scale
from lm_eval_moe.tables import aligned
from lm_eval_moe.wrapping import hanging

__all__ = ["power_table", "verdict_table"]

_STYLES = {"fail": "bold red", "unjudged": "bold magenta", "warn": "yellow", "pass": "green"}
_MIN_WIDTH, _LOG_WIDTH = 80, 120


def verdict_table(verdict: Verdict) -> str:
    """Return what is compared, the tables, what did not simply hold, and the outcome, coloured on a terminal."""
    console = _console()
    for name, side in (("baseline", verdict.baseline), ("candidate", verdict.candidate)):
        _say(console, f"{name}: ", printable(side.text))
    for benchmark in dict.fromkeys(line.benchmark for line in verdict.lines):
        for headers, rows, what in tables_of(verdict):
            benchmark_rows = [(line, cells) for line, cells in rows if line.benchmark == benchmark]
            if benchmark_rows:
                console.print(_table(headers, benchmark_rows, ": ".join(filter(None, (printable(benchmark), what)))))
    for title, headers, cells in flip_tables(verdict):
        _say(console, "", printable(title))
        if cells:
            texts = [[printable(cell) for cell in row] for row in (headers, *cells)]
            console.print("\n".join(aligned(texts, left=len(headers))), soft_wrap=True, markup=False, highlight=False)
    for line in explained(verdict):
        sentence = f"{printable(line.benchmark)} {printable(line.name)}: {printable(line.sentence)}"
        _say(console, f"{line.result}: ", sentence, _style(line))
    for note in verdict.notes:
        _say(console, "note: ", printable(note))
    _say(console, "", footer(verdict))
    effect = {0: "pass", 1: "fail", 2: "unjudged"}[verdict.exit_code]
    console.print(Text(verdict.headline, style=_STYLES[effect]), soft_wrap=True)
    return _text(console)


def _style(line: VerdictLine) -> str:
    return _STYLES["warn" if line.is_tolerated else line.effect]


def power_table(rows: list[PowerRow], heading: str) -> str:
    """Return how often each drop is caught."""
    console = _console()
    _say(console, "", heading)
    for benchmark in dict.fromkeys(row.benchmark for row in rows):
        benchmark_rows = [row for row in rows if row.benchmark == benchmark]
        table = Table(title=Text(printable(benchmark)), title_justify="left", box=None, pad_edge=False)
        drops = [f"-{100 * d:g}" if benchmark_rows[0].is_share else f"-{d:.3g}" for d in benchmark_rows[0].drops]
        for number, header in enumerate(("falls", "items", "baseline", "margin", *drops, "80 % caught")):
            table.add_column(Text(header), justify="right" if number else "left", no_wrap=True)
        for row in benchmark_rows:
            small = 100 if row.is_share else 1
            smallest = "never" if row.smallest is None else f"-{small * row.smallest:.3g}"
            chances = ["" if chance is None else f"{100 * chance:.0f} %" for chance in row.chances]
            name = "all at once" if row.name == "macro" else printable(row.name)
            baseline = Scale(row, plain=True).value(row.score)
            cells = [name, str(row.items), baseline, f"{small * row.margin:.3g}", *chances]
            table.add_row(*(Text(cell) for cell in [*cells, smallest]))
        console.print(table)
    return _text(console)


def _table(headers: tuple[str, ...], rows: list[tuple[VerdictLine, list[str]]], title: str) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for number, header in enumerate(headers):
        table.add_column(Text(header), justify="right" if number > 1 else "left", no_wrap=True, overflow="fold")
    for line, cells in rows:
        name = line.name.removeprefix("routing drift ") if line.kind == "drift" else line.name
        result = Text(line.result, style=_style(line))
        table.add_row(Text(printable(name)), result, *(Text(cell) for cell in cells))
    return table


def _say(console: Console, head: str, text: str, style: str = "") -> None:
    """Print text that goes on under itself; the head's word has the style."""
    for number, line in enumerate(hanging(head, text, console.width)):
        styled = Text(line)
        if style and not number:
            styled.stylize(style, 0, len(head) - 2)
        console.print(styled, soft_wrap=True)


def _console() -> Console:
    """Return a console that writes into memory, coloured where standard output is a terminal."""
    is_terminal = sys.stdout.isatty()
    width = max(shutil.get_terminal_size().columns, _MIN_WIDTH) if is_terminal else _LOG_WIDTH
    return Console(
        file=io.StringIO(), width=width, force_terminal=is_terminal, color_system="auto" if is_terminal else None
    )


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
