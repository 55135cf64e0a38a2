"""The style and the size of every figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.escaping import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LINE", "WIDTH", "boxed", "drawing", "empty", "few_of", "short"]

WIDTH = 5.0  # inches; small, so that the text stays readable when a phone shrinks the figure
LINE = 0.17  # inches a line of text needs


@contextmanager
def drawing(colours: Colours) -> Iterator[None]:
    """Apply the common style."""
    import matplotlib as mpl

    with mpl.rc_context(colours.style()):
        yield


def empty(width: float, height: float) -> Figure:
    """Return a figure without axes; sizes in inches."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=72)  # a pixel is a point, as in the SVG
    FigureCanvasSVG(figure)
    return figure


def short(text: str, most: int = 16) -> str:
    """Return text for a figure: on one line, without control characters, cut where it is too long."""
    line = printable(text)
    return line if len(line) <= most else line[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def boxed(axes: Axes) -> None:
    """Draw a thin line around the axes."""
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)


def few_of(size: int, most: int) -> range:
    """Return at most so many places of ``size`` at even steps from 0, for ticks."""
    return range(0, size, next(2**power for power in range(64) if size / 2**power <= most))
