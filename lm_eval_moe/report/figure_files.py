"""Every figure as PNG and SVG on white, and its data as CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_moe.drawing.canvas import drawing, short
from lm_eval_moe.drawing.palette import Colours, file_colours
from lm_eval_moe.drawing.picture import put_caption, put_title, write_pictures
from lm_eval_moe.files import write_whole
from lm_eval_moe.report.figures._axes import run_marker
from lm_eval_moe.report.sections import NamedFigure

if TYPE_CHECKING:
    from matplotlib.lines import Line2D

__all__ = ["write_figures"]


def write_figures(figures: Sequence[NamedFigure], folder: Path, labels: Sequence[str]) -> list[Path]:
    """Write all figures; return the files. Equal data give equal bytes.

    Args:
        figures: The figures.
        folder: Where to; it is made.
        labels: The runs' labels, for the key.

    Raises:
        UserError: A file cannot be written.
    """
    written, colours = [], file_colours()
    for entry in figures:
        figure, table = entry.figure, folder / f"{entry.name}.csv"
        drawings = [("", figure.title, figure.caption, figure.draw)]
        for part in figure.folded:
            drawings.append((f"_{part.stem}", f"{figure.title}: {part.title.lower()}", part.caption, part.draw))
        for suffix, title, caption, draw in drawings:
            picture = draw(colours)
            with drawing(colours):
                put_title(picture, title, [_handle(run, labels[run], colours) for run in figure.key])
                put_caption(picture, caption)
            written += write_pictures(picture, folder, f"{entry.name}{suffix}", title)
        write_whole(table, figure.csv, "figure")
        written.append(table)
    return written


def _handle(run: int, label: str, colours: Colours) -> Line2D:
    from matplotlib.lines import Line2D

    text = "\n".join(textwrap.wrap(short(label, 200), 66))
    return Line2D([], [], linestyle="", marker=run_marker(run), color=colours.run(run), label=text)
