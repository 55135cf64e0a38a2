"""What a figure of the report is: drawn twice, on the page and in files, with its data beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.report.palette import Colours
from lm_eval_moe.tables import Cell, csv_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Cell", "ReportFigure"]


@dataclass(frozen=True)
class ReportFigure:
    """A figure with what it shows, what it says, and its data.

    Attributes:
        stem: What its files are called.
        title: A few words.
        caption: How to read it.
        alternative: The text alternative, for those who do not see it.
        columns: The names of the data's columns.
        rows: The data.
        draw: Draws it with the given colours.
        finding: What the data say, computed from them; empty where the section says it.
        key: Numbers of the runs whose colours and markers are in it.
        tabulated: Whether the page shows the data as a table; not where another table has them, or there are too many.
    """

    stem: str
    title: str
    caption: str
    alternative: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    draw: Callable[[Colours], Figure]
    finding: str = ""
    key: tuple[int, ...] = ()
    tabulated: bool = True

    def csv(self) -> str:
        """Return the data as CSV, numbers in full."""
        return csv_text(self.columns, self.rows)
