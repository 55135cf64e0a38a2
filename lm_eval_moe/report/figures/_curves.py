"""Curves over layers, a line a language, from profiles or from results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.analysis import NotPossible
from lm_eval_moe.drawing.canvas import LINE, drawing
from lm_eval_moe.drawing.palette import LINE_COLOURS, Colours
from lm_eval_moe.report.figures._axes import band_names, canvas, end_labels, layer_ticks
from lm_eval_moe.report.figures._base import ReportFigure
from lm_eval_moe.report.wording import listing
from lm_eval_moe.results import Benchmark
from lm_eval_moe.results.benchmarks import LanguageResult
from lm_eval_moe.shape import BANDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lm_eval_moe.analysis import AnalysisInputs, LanguageCurve

__all__ = ["Curves", "Line", "SteeredLayers", "curve_figure", "draw_curves", "of_profiles", "of_results"]

_COLUMNS = ("language", "layer", "mean", "low", "high", "items")

MOST_AREAS = 8
"""Intervals are drawn for up to so many lines; of more they would cover each other, and are in the data only."""

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.8)))


@dataclass(frozen=True)
class Line:
    """One language: mean, and the ends of its 95 % interval where there is one, by decoder layer."""

    language: str
    points: Mapping[int, tuple[float, float | None, float | None]]
    items: int | None = None


@dataclass(frozen=True)
class SteeredLayers:
    """The layers that a run steers, drawn in its colour."""

    run: int
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Curves:
    """What is drawn.

    Attributes:
        layers: The MoE layers.
        bands: The layers of ``early``, ``middle`` and ``late``.
        lines: One a language.
        languages: All languages of the section, so that one looks the same in all its figures.
        label: Of the vertical axis.
        steered: What runs steer, as bars at the foot.
        level: A value to compare with, such as that by chance.
        from_zero: Whether the axis begins at 0.
    """

    layers: Sequence[int]
    bands: Mapping[str, Sequence[int]]
    lines: Sequence[Line]
    languages: Sequence[str]
    label: str
    steered: Sequence[SteeredLayers] = ()
    level: float | None = None
    from_zero: bool = True

    @property
    def intervals(self) -> str:
        """Where the intervals are, in words."""
        if not any(low is not None for line in self.lines for _, low, _ in line.points.values()):
            return ""
        return ", with 95 % intervals" if len(self.lines) <= MOST_AREAS else "; 95 % intervals are in the data"


def of_profiles(inputs: AnalysisInputs, curves: Sequence[LanguageCurve], label: str, **more: Any) -> Curves:
    """Return the curves of an analysis, layers without a value left out; the rest as `Curves` has it.

    Raises:
        NotPossible: No layer of any language has a value.
    """
    shape = inputs.shape
    lines = [
        Line(
            curve.language,
            {
                layer: (each.mean, each.low, each.high)
                for layer, each in curve.layers.items()
                if not math.isnan(each.mean)
            },
            curve.items,
        )
        for curve in curves
    ]
    if not any(line.points for line in lines):
        raise NotPossible(
            "no layer has a value in any language", "give profiles of texts on which experts were selected"
        )
    return Curves(
        shape.layers, {band: shape.band(band) for band in BANDS}, lines, list(inputs.languages), label, **more
    )


def of_results(
    benchmark: Benchmark,
    languages: Iterable[str],
    values_of: Callable[[LanguageResult], Sequence[float | None] | None],
    label: str,
    **more: Any,
) -> Curves | None:
    """Return the baseline's curves of some languages, without intervals; None if it has none."""
    run, lines = benchmark.runs[0], []
    for lang in languages:
        cell = benchmark.cells[0].get(lang)
        values = values_of(cell) if cell else None
        if cell and values and len(values) == len(run.layers):
            known = zip(run.layers, values, strict=True)
            points = {layer: (float(value), None, None) for layer, value in known if value is not None}
            lines += [Line(lang, points, cell.documents or None)] if points else []
    bands = {band: run.band(band) for band in BANDS}
    return Curves(run.layers, bands, lines, list(benchmark.languages), label, **more) if lines else None


def curve_figure(curves: Curves, title: str, caption: str, what: str, *, within: str = "", **more: Any) -> ReportFigure:
    """Return the figure of some curves.

    Args:
        curves: The curves.
        title: The figure's title.
        caption: Its caption.
        what: What the lines are, for the text alternative.
        within: What follows the languages there.
        more: The rest, as `ReportFigure` has it.
    """
    languages = listing([line.language for line in curves.lines])
    return ReportFigure(
        title,
        caption,
        f"Line plot of {what} over {len(curves.layers)} layers for {languages}{within}.",
        _COLUMNS,
        [(line.language, at, *point, line.items) for line in curves.lines for at, point in sorted(line.points.items())],
        lambda colours: draw_curves(curves, colours),
        key=tuple(each.run for each in curves.steered),
        **more,
    )


def draw_curves(curves: Curves, colours: Colours) -> Figure:
    """Draw the lines with their intervals as faint areas, the steered layers shaded."""
    numbers = {language: number for number, language in enumerate(sorted(curves.languages))}
    lines = sorted((line for line in curves.lines if line.points), key=lambda line: line.language)
    with drawing(colours):
        figure, axes = canvas(height=max(3.3, LINE * len(lines) + 1.1) + 0.1 * len(curves.steered), right=0.5)
        band_names(axes, curves.bands, colours)
        ends = []
        for line in lines:
            number = numbers[line.language]
            _draw_line(axes, line, number, colours, area=len(lines) <= MOST_AREAS)
            ends.append((line.points[max(line.points)][0], line.language, colours.line(number)))
        if curves.level is not None:
            axes.axhline(curves.level, color=colours.muted, linewidth=0.9, linestyle=(0, (1, 2)))
        _limits(axes, curves, lines)
        _shade(axes, curves.steered, colours)
        axes.set_xlim(curves.layers[0] - 0.5, curves.layers[-1] + 0.5)
        layer_ticks(axes, curves.layers)
        end_labels(axes, curves.layers[-1] + 0.5, ends)
        axes.set_xlabel("decoder layer (counted from 0)")
        axes.set_ylabel(curves.label)
        return figure


def _draw_line(axes: Axes, line: Line, number: int, colours: Colours, *, area: bool) -> None:
    layers = sorted(line.points)
    colour, dashes = colours.line(number), _DASHES[(number + number // LINE_COLOURS) % len(_DASHES)]
    axes.plot(layers, [line.points[layer][0] for layer in layers], color=colour, linewidth=1.4, linestyle=dashes)
    known = [(layer, low, high) for layer in layers for _, low, high in [line.points[layer]] if low is not None]
    if known and area:
        at, low, high = zip(*known, strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.13, linewidth=0)


def _limits(axes: Axes, curves: Curves, lines: Sequence[Line]) -> None:
    """Leave room for the bars of steered layers below the lowest value."""
    values = [value for line in lines for point in line.points.values() for value in point if value is not None] + (
        [curves.level] if curves.level is not None else []
    )
    top, least = max(values), 0.0 if curves.from_zero else min(values)
    span = (top - least) or abs(top) or 1.0
    axes.set_ylim(least - (0.01 + 0.05 * len(curves.steered)) * span, top + 0.06 * span)
    low = least - (0.0 if curves.from_zero else 0.01 * span)
    axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= top + 0.06 * span])


def _shade(axes: Axes, steered: Sequence[SteeredLayers], colours: Colours) -> None:
    from matplotlib.patches import Rectangle

    low, high = axes.get_ylim()
    unit = (high - low) / (1.07 + 0.05 * len(steered))
    for layer in {layer for each in steered for layer in each.layers}:
        axes.axvspan(layer - 0.5, layer + 0.5, color=colours.band, linewidth=0, zorder=0)
    for place, each in enumerate(steered):
        for layer in each.layers:
            foot = low + (0.005 + 0.05 * place) * unit
            colour = colours.run(each.run)
            axes.add_patch(Rectangle((layer - 0.5, foot), 1, 0.032 * unit, facecolor=colour, alpha=0.85, linewidth=0))
