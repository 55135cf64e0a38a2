"""Heat maps of layers x experts: what differs between languages, or what a rule compared and chose."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.drawing.canvas import LINE, WIDTH, boxed, drawing, empty, few_of
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.drawing.raster import NOTHING, colour_bar, draw_grid, limit_of
from lm_eval_moe.escaping import printable
from lm_eval_moe.shape import BANDS, RoutingShape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FEW_EXPERTS", "HeatMap", "Panel", "draw_layers_by_experts"]

FEW_EXPERTS = 32
"""Up to so many experts, panels stand two in a row."""

_LEFT, _RIGHT, _GAP, _TOP, _BELOW, _NAMED, _FOOT = 0.42, 0.24, 0.28, 0.26, 0.24, 0.14, 0.54  # inches


@dataclass(frozen=True)
class Panel:
    """One grid.

    Attributes:
        title: What it is of.
        values: ``[L, E]``, NaN where there is none; None: there is nothing to colour.
        selected: Row and expert of the places to be framed.
        faded: Rows that were not looked at.
    """

    title: str
    values: NDArray[np.float64] | None
    selected: Collection[tuple[int, int]] = ()
    faded: Collection[int] = ()


@dataclass(frozen=True)
class HeatMap:
    """Panels with one scale.

    Attributes:
        panels: One or more.
        label: What the values are.
        form: How the ends of the scale are written.
        factor: What they are multiplied by there.
        limit: The value with the full colour; None for the largest of the values.
        signed: Whether the values are differences, around 0, or from 0 to the limit.
        missing: What a place without a value is called in the key.
    """

    panels: Sequence[Panel]
    label: str = ""
    form: str = "{:+.1f}"
    factor: float = 1.0
    limit: float | None = None
    signed: bool = True
    missing: str = "no value"


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
    width = max(WIDTH, _LEFT + _RIGHT + cell * shape.experts)
    layouts = [_Layout.of(each, shape, width, cell) for each in maps]
    total = sum(layout.height for layout in layouts)
    with drawing(colours):
        figure = empty(width, total)
        top = total
        for heat_map, layout in zip(maps, layouts, strict=True):
            _draw_map(figure, heat_map, layout, top, shape, colours)
            top -= layout.height
        return figure


@dataclass(frozen=True)
class _Layout:
    """Where the panels of a map stand: sizes in inches."""

    columns: int
    panel: tuple[float, float]
    titles: list[list[str]]
    has_key: bool
    foot: float

    @classmethod
    def of(cls, heat_map: HeatMap, shape: RoutingShape, width: float, cell: float) -> _Layout:
        columns = 2 if shape.experts <= FEW_EXPERTS and len(heat_map.panels) > 1 else 1
        across = (width - _LEFT - _RIGHT - _GAP * (columns - 1)) / columns
        rows = len(shape.layers)
        down = min(2.6, max(0.95, (0.135 if columns == 2 else 0.042) * rows))
        letters = int((across + (_LEFT - 0.1 if columns == 1 else 0.0)) / 0.076)
        titles = [textwrap.wrap(printable(panel.title), letters) or [""] for panel in heat_map.panels]
        has_key = any(_key(heat_map, panel) for panel in heat_map.panels)
        panel = (across, max(down, 1.3 * cell * rows))
        return cls(columns, panel, titles, has_key, _NAMED + (_FOOT if heat_map.label else 0.1))

    @property
    def top(self) -> float:
        """Room above a panel."""
        return _TOP + (max(map(len, self.titles)) - 1) * 0.155 + (LINE if self.has_key else 0.0)

    @property
    def height(self) -> float:
        """Of the whole map."""
        return math.ceil(len(self.titles) / self.columns) * (self.top + self.panel[1] + _BELOW) + self.foot


def _draw_map(
    figure: Figure, heat_map: HeatMap, layout: _Layout, top: float, shape: RoutingShape, colours: Colours
) -> None:
    width, total = figure.get_figwidth(), figure.get_figheight()
    across, down = layout.panel
    known = [panel.values for panel in heat_map.panels if panel.values is not None]
    limit = heat_map.limit or (limit_of(np.stack(known)) if known else 1.0)
    for number, panel in enumerate(heat_map.panels):
        row, column = divmod(number, layout.columns)
        x = _LEFT + column * (across + _GAP)
        y = top - (row + 1) * (layout.top + down + _BELOW) + _BELOW
        axes = figure.add_axes((x / width, y / total, across / width, down / total))
        _draw_panel(axes, panel, shape, limit, colours)
        _ticks(axes, shape, numbered=column == 0)
        _bands(axes, shape, colours, named=column == layout.columns - 1, room=down)
        if number + layout.columns >= len(heat_map.panels):
            axes.set_xlabel("expert", fontsize=9, labelpad=1)
        outside = layout.columns == 1 and len(layout.titles[number][0]) > 20  # a sentence begins left of the axes
        axes.annotate(
            "\n".join(layout.titles[number]),
            (0, 1),
            ((0.1 - _LEFT) * 72 * outside, 3 + 12 * layout.has_key),
            xycoords="axes fraction",
            textcoords="offset points",
            va="bottom",
            fontsize=9,
            linespacing=1.15,
            annotation_clip=False,
        )
        if key := _key(heat_map, panel):
            _draw_key(axes, key, colours, filled=panel.values is None)
    if heat_map.label:
        foot = top - layout.height + layout.foot - _NAMED - 0.04
        bar = figure.add_axes((0.25, (foot - 0.11) / total, 0.5, 0.11 / total))
        form, scaled = heat_map.form, heat_map.factor * limit
        colour_bar(bar, scaled, heat_map.label, colours, form, signed=heat_map.signed)


def _draw_panel(axes: Axes, panel: Panel, shape: RoutingShape, limit: float, colours: Colours) -> None:
    from matplotlib.patches import Rectangle

    values = np.zeros((len(shape.layers), shape.experts)) if panel.values is None else panel.values
    draw_grid(axes, values, limit, colours)
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


def _key(heat_map: HeatMap, panel: Panel) -> list[str]:
    """Return what has to be explained: framed places, those without a value, and faded rows."""
    if not (panel.selected or panel.faded):
        return []
    if panel.values is None:
        return ["selected"]
    missing = bool(np.isnan(panel.values).any())
    return ["selected"] + [heat_map.missing] * missing + ["faded: not looked at"] * bool(panel.faded)


def _draw_key(axes: Axes, texts: Sequence[str], colours: Colours, *, filled: bool) -> None:
    from matplotlib.patches import Patch

    looks: list[dict[str, Any]] = [
        {"facecolor": colours.ink if filled else colours.by_name["paper"], "edgecolor": colours.ink}
    ]
    looks += [
        {"facecolor": colours.band, "edgecolor": colours.rule} if text.startswith("faded") else {"facecolor": NOTHING}
        for text in texts[1:]
    ]
    axes.legend(
        handles=[Patch(label=text, linewidth=0.8, **look) for text, look in zip(texts, looks, strict=True)],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=len(texts),
        frameon=False,
        borderpad=0,
        borderaxespad=0.25,
        handlelength=1.0,
        handleheight=1.0,
        columnspacing=1.2,
        fontsize=8.5,
    )


def _ticks(axes: Axes, shape: RoutingShape, *, numbered: bool) -> None:
    axes.set_xticks(few_of(shape.experts, 8))
    rows = few_of(len(shape.layers), 8)
    axes.set_yticks(rows, [str(shape.layers[row]) for row in rows] if numbered else [""] * len(rows))
    axes.tick_params(length=2, labelsize=8.5, pad=2)
    boxed(axes)
    if numbered:
        axes.set_ylabel("layer", fontsize=9, labelpad=2)


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
