"""Curves over layers drawn: each in a colour of its own where they are few, by resource tier or family where not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.drawing.canvas import LINE, WIDTH, drawing, empty, short
from lm_eval_moe.drawing.palette import LINE_COLOURS, Colours
from lm_eval_moe.multilingual.languages import by_tier
from lm_eval_moe.report.figures._axes import band_names, canvas, colour_key, end_labels, layer_ticks
from lm_eval_moe.report.figures._curves import MOST_AREAS, Curves, Line, SteeredLayers
from lm_eval_moe.report.figures._tiers import by_family, tier_colour, tier_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_by_family", "draw_curves"]

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.8)))
_EXTREMES = (2, 4, 6, 5, 7)  # of the palette; the tiers have the others
_STRIP = 0.25  # inches that a run's strip takes
_LEAST_OF_BAND, _LEAST_OF_FAMILY = 5, 3  # languages


def draw_curves(curves: Curves, colours: Colours) -> Figure:
    """Draw the lines, and below the axis which layers runs steer."""
    lines, strips = curves.drawn, _STRIP * len(curves.steered)
    names = min(len(lines), MOST_AREAS + 4)
    with drawing(colours):
        height = max(3.3, LINE * names + 1.1) + 0.22 * curves.are_many + strips
        top = 0.25 + 0.22 * curves.are_many
        figure, axes = canvas(height=height, right=0.5, top=top, bottom=0.5 + strips)
        band_names(axes, curves.bands, colours)
        _shade(axes, curves.steered, colours)
        ends = _draw_summary(axes, curves, colours) if curves.are_many else _draw_each(axes, curves, colours)
        if curves.level is not None:
            axes.axhline(curves.level, color=colours.muted, linewidth=0.9, linestyle=(0, (1, 2)))
        _limit(axes, curves)
        end_labels(axes, curves.layers[-1] + 0.5, ends)
        axes.set_xlabel("decoder layer (counted from 0)")
        axes.set_ylabel(curves.label)
        _draw_strips(axes, curves, colours)
        return figure


def draw_by_family(curves: Curves, colours: Colours) -> Figure:
    """Draw a panel for every family of several languages, and one for the others, all with the same axes."""
    lines = {line.language: line for line in curves.drawn}
    numbers = {language: number for number, language in enumerate(lines)}
    families = by_family(lines, _LEAST_OF_FAMILY)
    tiers = by_tier(lines)
    tier_of = {language: tier for tier, members in tiers.items() for language in members}
    median = _quantiles(curves, list(lines.values()), 50)
    columns, left, gap, down, top, foot = 3, 0.5, 0.14, 1.1, 0.24, 0.5
    rows = math.ceil(len(families) / columns)
    across = (WIDTH - left - 0.1 - gap * (columns - 1)) / columns
    height = 0.3 + rows * (down + top) + foot
    with drawing(colours):
        figure = empty(WIDTH, height)
        for place, (family, members) in enumerate(families.items()):
            row, column = divmod(place, columns)
            x, y = left + column * (across + gap), height - 0.3 - (row + 1) * (down + top)
            axes = figure.add_axes((x / WIDTH, y / height, across / WIDTH, down / height))
            axes.plot(curves.layers, median, color=colours.muted, linewidth=2.2, alpha=0.45)
            for language in members:
                colour = tier_colour(tier_of.get(language, ""), colours)
                _draw_line(axes, lines[language], colour, number=numbers[language], linewidth=0.9, alpha=0.85)
            _limit(axes, curves)
            layer_ticks(axes, curves.layers, 5)
            axes.locator_params(axis="y", nbins=4)
            axes.tick_params(labelsize=8.5, labelleft=column == 0, labelbottom=place + columns >= len(families))
            title = f"{short(family, 20)} ({len(members)})"
            axes.annotate(title, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", fontsize=9)
            if place == 0:
                key = [(name, tier_colour(tier, colours)) for tier, name in tier_names(tiers).items()]
                colour_key(axes, [*key, ("median of all", colours.muted)], colours, above=18)
            if place + columns >= len(families):
                axes.set_xlabel("decoder layer", fontsize=9)
        return figure


def _draw_each(axes: Axes, curves: Curves, colours: Colours) -> list[tuple[float, str, str]]:
    """Draw every line in its colour, with its interval as a faint area; return the names of their ends."""
    numbers = {language: number for number, language in enumerate(sorted(curves.languages))}
    ends = []
    for line in curves.drawn:
        number = numbers[line.language]
        colour, dashes = colours.line(number), _DASHES[(number + number // LINE_COLOURS) % len(_DASHES)]
        _draw_line(axes, line, colour, linewidth=1.4, linestyle=dashes)
        intervals = [(at, low, high) for at, (_, low, high) in sorted(line.points.items()) if low is not None]
        if intervals and len(curves.drawn) <= MOST_AREAS:
            at, low, high = zip(*intervals, strict=True)
            axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)
        ends.append((line.points[max(line.points)][0], line.language, colour))
    return ends


def _draw_summary(axes: Axes, curves: Curves, colours: Colours) -> list[tuple[float, str, str]]:
    """Draw all lines thin, the tiers' medians with bands, and some lines by name; return the names of their ends."""
    lines = {line.language: line for line in curves.drawn}
    tiers = by_tier(lines)
    tier_of = {language: tier for tier, members in tiers.items() for language in members}
    for number, (language, line) in enumerate(lines.items()):
        colour = tier_colour(tier_of.get(language, ""), colours)
        _draw_line(axes, line, colour, number=number, linewidth=0.6, alpha=0.3)
    for tier, members in tiers.items():
        tier_lines, colour = [lines[language] for language in members], tier_colour(tier, colours)
        low, median, high = (_quantiles(curves, tier_lines, percent) for percent in (10, 50, 90))
        if len(tier_lines) >= _LEAST_OF_BAND:
            axes.fill_between(curves.layers, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(curves.layers, median, color=colour, linewidth=2.4, zorder=3)
    ends = []
    for place, line in enumerate(curves.extremes):
        colour = colours.line(_EXTREMES[place]) if place < len(_EXTREMES) else colours.ink
        _draw_line(axes, line, colour, linewidth=1.1, linestyle=_DASHES[1], zorder=4)
        ends.append((line.points[max(line.points)][0], line.language, colour))
    colour_key(
        axes, [(name, tier_colour(tier, colours)) for tier, name in tier_names(tiers).items()], colours, above=16
    )
    return ends


def _draw_line(axes: Axes, line: Line, colour: str, *, number: int | None = None, **style: Any) -> None:
    layers = sorted(line.points)
    gid = None if number is None else f"choice-{number}"
    axes.plot(layers, [line.points[layer][0] for layer in layers], color=colour, gid=gid, **style)


def _quantiles(curves: Curves, lines: Sequence[Line], percent: float) -> list[float]:
    """Return a quantile over lines by layer; NaN where no line has a value."""
    values = [[line.points[layer][0] for line in lines if layer in line.points] for layer in curves.layers]
    return [float(np.percentile(of_layer, percent)) if of_layer else math.nan for of_layer in values]


def _limit(axes: Axes, curves: Curves) -> None:
    least, top = curves.limits
    span = (top - least) or abs(top) or 1.0
    axes.set_ylim(least - (0.0 if least == 0 else 0.03 * span), top + 0.06 * span)
    axes.set_xlim(curves.layers[0] - 0.5, curves.layers[-1] + 0.5)
    layer_ticks(axes, curves.layers)


def _shade(axes: Axes, steered: Sequence[SteeredLayers], colours: Colours) -> None:
    """Shade the layers that are steered, if all runs steer the same: else a shade would not say by which."""
    if len({run.layers for run in steered}) == 1:
        for layer in steered[0].layers:
            axes.axvspan(layer - 0.5, layer + 0.5, color=colours.band, linewidth=0, zorder=0)


def _draw_strips(axes: Axes, curves: Curves, colours: Colours) -> None:
    """Draw a strip per run below the axis, its name above it."""
    from matplotlib.patches import Rectangle

    if not curves.steered:
        return
    figure, count = axes.figure, len(curves.steered)
    height = figure.get_figheight()  # type: ignore[union-attr]
    place = axes.get_position()
    room = _STRIP * count / height
    strips = figure.add_axes((place.x0, 0.02 / height, place.width, room))
    strips.set_xlim(axes.get_xlim())
    strips.set_ylim(count, 0)
    strips.axis("off")
    for row, run in enumerate(curves.steered):
        colour = colours.run(run.run)
        strips.add_patch(
            Rectangle((axes.get_xlim()[0], row + 0.7), len(curves.layers), 0.2, facecolor=colours.band, linewidth=0)
        )
        for first, last in _stretches(run.layers):
            strips.add_patch(Rectangle((first - 0.5, row + 0.7), last - first + 1, 0.2, facecolor=colour, linewidth=0))
        strips.text(axes.get_xlim()[0], row + 0.64, short(run.name, 66), color=colour, fontsize=8.5, va="bottom")


def _stretches(layers: Sequence[int]) -> list[tuple[int, int]]:
    """Return neighbouring layers as first and last."""
    stretches: list[tuple[int, int]] = []
    for layer in sorted(layers):
        if stretches and layer == stretches[-1][1] + 1:
            stretches[-1] = stretches[-1][0], layer
        else:
            stretches.append((layer, layer))
    return stretches
