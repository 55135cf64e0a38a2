"""Heat maps of a sweep: the gain of every cell of the grid by language, above that of its random controls."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.drawing.canvas import WIDTH, boxed, drawing, empty, short
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.drawing.raster import OUTLIER, colour_bar, draw_grid, limit_of, mark_outliers
from lm_eval_moe.escaping import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MOST_COLUMNS", "Gains", "draw_cells_by_languages"]

MOST_COLUMNS = 20
"""Of more languages each is a row, and each cell of the grid a column."""

_LABEL = 22  # characters of a row's label
_RIGHT, _TOP, _GAP, _FOOT = 0.08, 0.52, 0.62, 0.72  # inches
_NUMBER = 0.33  # inches that a number needs


@dataclass(frozen=True)
class Gains:
    """What is drawn.

    Attributes:
        cells: The names of the rows.
        languages: The names of the columns.
        of_all: Whether the last column is the mean of the others, to be ruled off.
        kinds: By what each grid is called, its values ``[cells, languages]``, NaN where there is none.
        unit: Of the values.
        decimals: Of the values.
        noise: How far from 0 a typical value is by chance: half the width of its 95 % interval; 0 where that is not
            known.
        beyond: Which of the first grid's values are beyond noise ``[cells, languages]``: they are framed.
    """

    cells: Sequence[str]
    languages: Sequence[str]
    of_all: bool
    kinds: Mapping[str, NDArray[np.float64]]
    unit: str
    decimals: int
    noise: float = 0.0
    beyond: NDArray[np.bool_] | None = None


def draw_cells_by_languages(gains: Gains, colours: Colours) -> Figure:
    """Draw the grids one below the other, with the same scale; the values stand in them where there is room."""
    if len(gains.languages) > MOST_COLUMNS:
        return _draw_languages_by_cells(gains, colours)
    every = np.stack(list(gains.kinds.values()))
    limit = limit_of(every, gains.noise)
    labels = [textwrap.wrap(printable(cell), _LABEL)[:2] or [""] for cell in gains.cells]
    left = 0.25 + 0.068 * max(len(line) for label in labels for line in label)
    pitch = 0.21 if all(len(label) == 1 for label in labels) else 0.3
    width, height = WIDTH - left - _RIGHT, pitch * len(labels)
    total = _TOP + (height + _GAP) * len(gains.kinds) - _GAP + _FOOT
    across = width / len(gains.languages)
    with drawing(colours):
        figure = empty(WIDTH, total)
        for place, (kind, values) in enumerate(gains.kinds.items()):
            y = total - _TOP - height - place * (height + _GAP)
            axes = figure.add_axes((left / WIDTH, y / total, width / WIDTH, height / total))
            draw_grid(axes, values, limit, colours)
            _dress(axes, gains, ["\n".join(label) for label in labels], colours)
            _mark(axes, values, gains.beyond if place == 0 else None, colours)
            if across < _NUMBER:
                mark_outliers(axes, values, limit, colours)
            axes.annotate(
                kind,
                (0, 1),
                (-(left - 0.06) * 72, 20),
                xycoords="axes fraction",
                textcoords="offset points",
                va="bottom",
            )
            if across >= _NUMBER:
                _write(axes, values, gains.decimals, colours, size=8.5 if across >= 0.39 else 7.5)
        _draw_scale(figure, gains, limit, colours, dotted=across < _NUMBER)
        return figure


def _draw_languages_by_cells(gains: Gains, colours: Colours) -> Figure:
    """Draw the grids with a row per language: there would be no room for their names above columns."""
    limit = limit_of(np.stack(list(gains.kinds.values())), gains.noise)
    labels = [short(cell, _LABEL + 8) for cell in gains.cells]
    names = [short(name, 7) for name in gains.languages]
    left, pitch = 0.2 + 0.085 * max(map(len, names)), 0.165
    top, width, height = 0.5 + 0.068 * max(map(len, labels)), WIDTH - left - _RIGHT, pitch * len(names)
    total = (top + height) * len(gains.kinds) + _FOOT
    step = -(-len(labels) * 9 // int(72 * width))  # a name takes a line of 9 points: of very many cells some are named
    with drawing(colours):
        figure = empty(WIDTH, total)
        for place, (kind, across) in enumerate(gains.kinds.items()):
            values = across.T
            y = total - (top + height) * (place + 1)
            axes = figure.add_axes((left / WIDTH, y / total, width / WIDTH, height / total))
            figure.text(0.012, (y + height + top - 0.12) / total, kind, va="top")
            draw_grid(axes, values, limit, colours)
            axes.xaxis.tick_top()
            axes.set_xticks(range(0, len(labels), step), labels[::step], rotation=90, fontsize=8)
            axes.set_yticks(range(len(names)), names, fontsize=8.5)
            axes.tick_params(length=0, pad=3)
            boxed(axes)
            if gains.of_all:
                axes.axhline(len(names) - 1.5, color=colours.ink, linewidth=0.8)
            _mark(axes, values, gains.beyond.T if gains.beyond is not None and place == 0 else None, colours)
            mark_outliers(axes, values, limit, colours)
        _draw_scale(figure, gains, limit, colours, dotted=True)
        return figure


def _draw_scale(figure: Figure, gains: Gains, limit: float, colours: Colours, *, dotted: bool) -> None:
    every = np.stack(list(gains.kinds.values()))
    largest = float(np.abs(every[np.isfinite(every)]).max(initial=0.0))
    bar = figure.add_axes((0.3, 0.48 / figure.get_figheight(), 0.5, 0.11 / figure.get_figheight()))
    dots = "; dots: more than twice the end" if dotted and largest > OUTLIER * limit else ""
    colour_bar(bar, limit, f"{gains.unit}{dots}", colours, f"{{:+.{gains.decimals}f}}", largest=largest)


def _dress(axes: Axes, gains: Gains, rows: Sequence[str], colours: Colours) -> None:
    count = len(gains.languages)
    axes.xaxis.tick_top()
    names = [short(name, 7) for name in gains.languages]
    axes.set_xticks(range(count), names, rotation=90 if count > 12 else 0, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=8.5)
    axes.tick_params(length=0, pad=3)
    boxed(axes)
    if gains.of_all:
        axes.axvline(count - 1.5, color=colours.ink, linewidth=0.8)


def _mark(axes: Axes, values: NDArray[np.float64], beyond: NDArray[np.bool_] | None, colours: Colours) -> None:
    """Frame what is beyond noise; cross out what has no value, so that nobody takes it for a gain of 0."""
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(~np.isfinite(values)).tolist():
        for start, end in ((-0.5, 0.5), (0.5, -0.5)):
            axes.plot([column - 0.5, column + 0.5], [row + start, row + end], color=colours.muted, linewidth=0.5)
    for row, column in np.argwhere(beyond).tolist() if beyond is not None else ():
        place = (column - 0.46, row - 0.42)
        axes.add_patch(Rectangle(place, 0.92, 0.84, fill=False, edgecolor=colours.ink, linewidth=1.3, zorder=3))


def _write(axes: Axes, values: NDArray[np.float64], decimals: int, colours: Colours, *, size: float) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            text = f"{value:+.{decimals}f}"
            number = text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")
            axes.text(column, row, number, ha="center", va="center", fontsize=size, color=colours.ink)
