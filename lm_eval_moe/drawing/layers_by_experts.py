"""Heat maps of layers x experts: what differs between languages, or what a rule compared and chose."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.drawing.canvas import WIDTH, boxed, drawing, empty, few_of
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.drawing.raster import OUTLIER, colour_bar, draw_grid, limit_of, mark_outliers
from lm_eval_moe.escaping import printable
from lm_eval_moe.shape import BANDS, RoutingShape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FEW_EXPERTS", "HeatMap", "Panel", "draw_layers_by_experts"]

FEW_EXPERTS = 32
"""Up to so many experts, panels stand two in a row."""

_LEFT, _RIGHT, _GAP, _TOP, _LINE, _BELOW = 0.42, 0.24, 0.28, 0.12, 0.155, 0.24  # inches


@dataclass(frozen=True)
class Panel:
    """One grid.

    Attributes:
        title: Lines that say what it is of, and how to read it.
        values: ``[L, E]``, NaN where there is none; None: there is nothing to colour.
        selected: Row and expert of the places to be framed.
        faded: Rows that were not looked at.
        beyond: Which values are beyond noise ``[L, E]``: the others are grey. None: nothing is known of it.
    """

    title: Sequence[str]
    values: NDArray[np.float64] | None
    selected: Collection[tuple[int, int]] = ()
    faded: Collection[int] = ()
    beyond: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class HeatMap:
    """Panels with one scale.

    Attributes:
        panels: One or more.
        label: What the values are; empty where there are none.
        form: How the ends of the scale are written.
        factor: What they are multiplied by there.
        limit: The value with the full colour; None for the size that nearly all values do not exceed.
        signed: Whether the values are differences, around 0, or from 0 to the limit.
    """

    panels: Sequence[Panel]
    label: str = ""
    form: str = "{:+.1f}"
    factor: float = 1.0
    limit: float | None = None
    signed: bool = True

    @property
    def full(self) -> float:
        """The value with the full colour."""
        arrays = [panel.values for panel in self.panels if panel.values is not None]
        return self.limit or (limit_of(np.stack(arrays)) if arrays else 1.0)

    @property
    def largest(self) -> float:
        """The largest size of a value."""
        magnitudes = [
            np.abs(panel.values[np.isfinite(panel.values)]) for panel in self.panels if panel.values is not None
        ]
        return max((float(values.max(initial=0.0)) for values in magnitudes), default=0.0)

    @property
    def foot(self) -> float:
        """Inches below the last row of panels."""
        return 0.68 if self.label else 0.24


def draw_layers_by_experts(
    maps: Sequence[HeatMap], shape: RoutingShape, colours: Colours, *, cell: float = 0.0
) -> Figure:
    """Draw maps one below the other, the first layer on top, with the bands of layers ruled off.

    Args:
        maps: What to draw.
        shape: The model's.
        colours: What to draw with.
        cell: Inches that an expert takes at least, where the figure may become wider than the page.
    """
    width, layers = max(WIDTH, _LEFT + _RIGHT + cell * shape.experts), len(shape.layers)
    columns = 2 if shape.experts <= FEW_EXPERTS and any(len(heat_map.panels) > 1 for heat_map in maps) else 1
    across = (width - _LEFT - _RIGHT - _GAP * (columns - 1)) / columns
    down = max(min(2.6, max(0.95, (0.135 if columns == 2 else 0.042) * layers)), 1.3 * cell * layers)
    letters = int((across + (_LEFT - 0.1) * (columns == 1)) / 0.076)
    blocks = [
        [
            [(panel, _wrapped(panel.title, letters)) for panel in heat_map.panels[start : start + columns]]
            for start in range(0, len(heat_map.panels), columns)
        ]
        for heat_map in maps
    ]
    tops = [[_TOP + _LINE * max(len(title) for _, title in row) for row in block] for block in blocks]
    below = _BELOW + 0.12 * (columns == 1)  # where every panel names its axis of experts
    total = sum(top + down + below for block in tops for top in block) + sum(heat_map.foot for heat_map in maps)
    y = total
    with drawing(colours):
        figure = empty(width, total)
        for heat_map, block, heights in zip(maps, blocks, tops, strict=True):
            for number, (row, top) in enumerate(zip(block, heights, strict=True), start=1):
                y -= top + down + below
                for column, (panel, title) in enumerate(row):
                    x = _LEFT + column * (across + _GAP)
                    axes = figure.add_axes((x / width, (y + below) / total, across / width, down / total))
                    _draw_panel(axes, panel, shape, heat_map.full, colours)
                    _write_title(axes, title, outside=columns == 1 and len(title) > 1)
                    _ticks(
                        axes,
                        shape,
                        numbered=column == 0,
                        named=columns == 1 or not any(column < len(below) for below in block[number:]),
                    )
                    _bands(axes, shape, colours, named=column == columns - 1, room=down)
            if heat_map.label:
                bar = figure.add_axes((0.25, (y - 0.29) / total, 0.5, 0.11 / total))
                scaled = heat_map.factor * heat_map.full
                dots = "; dots: more than twice the end" if heat_map.largest > OUTLIER * heat_map.full else ""
                colour_bar(
                    bar,
                    scaled,
                    f"{heat_map.label}{dots}",
                    colours,
                    heat_map.form,
                    signed=heat_map.signed,
                    largest=heat_map.factor * heat_map.largest,
                )
            y -= heat_map.foot
        return figure


def _wrapped(title: Sequence[str], letters: int) -> list[str]:
    return [line for text in title for line in textwrap.wrap(printable(text), letters)]


def _write_title(axes: Axes, title: Sequence[str], *, outside: bool) -> None:
    """Write the title above a panel; sentences begin at the figure's edge, names above the panel."""
    axes.annotate(
        "\n".join(title),
        (0, 1),
        ((0.1 - _LEFT) * 72 * outside, 3),
        xycoords="axes fraction",
        textcoords="offset points",
        va="bottom",
        fontsize=9,
        linespacing=1.15,
        annotation_clip=False,
    )


def _draw_panel(axes: Axes, panel: Panel, shape: RoutingShape, limit: float, colours: Colours) -> None:
    from matplotlib.patches import Rectangle

    values = np.zeros((len(shape.layers), shape.experts)) if panel.values is None else panel.values
    draw_grid(axes, values, limit, colours, panel.beyond)
    mark_outliers(axes, values, limit, colours)
    ink, paper = colours.ink, colours.by_name["paper"]
    # What was not looked at fades, so that a large number there is not taken for one that was passed over.
    for row in panel.faded:
        place = (-0.5, row - 0.5)
        axes.add_patch(Rectangle(place, shape.experts, 1, facecolor=paper, alpha=0.6, linewidth=0, zorder=2))
    filled = panel.values is None
    for row, expert in panel.selected:
        place = (expert - 0.5, row - 0.5)
        # A dark line in a light one stands out on every colour of the scale.
        axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor=paper, linewidth=1.8, zorder=3))
        axes.add_patch(Rectangle(place, 1, 1, fill=filled, facecolor=ink, edgecolor=ink, linewidth=0.9, zorder=4))


def _ticks(axes: Axes, shape: RoutingShape, *, numbered: bool, named: bool) -> None:
    axes.set_xticks(few_of(shape.experts, 8))
    rows = few_of(len(shape.layers), 8)
    axes.set_yticks(rows, [str(shape.layers[row]) for row in rows] if numbered else [""] * len(rows))
    axes.tick_params(length=2, labelsize=8.5, pad=2)
    boxed(axes)
    if numbered:
        axes.set_ylabel("layer", fontsize=9, labelpad=2)
    if named:
        axes.set_xlabel("expert", fontsize=9, labelpad=1)


def _bands(axes: Axes, shape: RoutingShape, colours: Colours, *, named: bool, room: float) -> None:
    """Rule the bands of layers off, and name them on the right in a height of so many inches."""
    bands = {name: [shape.layers.index(layer) for layer in shape.band(name)] for name in BANDS if shape.band(name)}
    line = room / len(shape.layers)
    size = max(5.0, min(8.0, *(110 * line * len(band) / len(name) for name, band in bands.items())))
    for name, band in bands.items():
        if band[0]:
            axes.axhline(band[0] - 0.5, color=colours.ink, linewidth=0.6, linestyle=(0, (4, 3)), zorder=2.5)
        if named:
            axes.text(
                1.012,
                (band[0] + band[-1]) / 2,
                name,
                transform=axes.get_yaxis_transform(),
                rotation=90,
                va="center",
                color=colours.muted,
                fontsize=size,
            )
