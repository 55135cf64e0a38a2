"""Dot plots by language with 95 % intervals: runs side by side in a row, or of many languages in columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.drawing.canvas import LINE, WIDTH, drawing, empty, short
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.number_text import Scale
from lm_eval_moe.report.figures._axes import around_zero, canvas, run_marker
from lm_eval_moe.report.figures._base import Folded
from lm_eval_moe.report.figures._tiers import MANY, grouped_rows
from lm_eval_moe.results.run import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MEAN", "Dot", "Drawings", "change_drawings", "draw_columns", "draw_dots", "drawings_of"]

MEAN = "mean"
"""The row below those of the languages."""

_MOST_COLUMNS = 8
_ROW, _HEAD, _BELOW = 0.175, 0.3, 0.5  # inches


@dataclass(frozen=True)
class Dot:
    """A value of a run in a row; ``ends`` of its interval where it has one, ``filled`` unless it may be noise."""

    row: str
    run: int
    value: float
    ends: tuple[float, float] | None
    filled: bool = True


@dataclass(frozen=True)
class Drawings:
    """How a dot plot is drawn, what its caption says of that, and what else is drawn of many languages."""

    draw: Callable[[Colours], Figure]
    note: str = ""
    folded: tuple[Folded, ...] = ()


def change_drawings(
    dots: Sequence[Dot], languages: Sequence[str], metric: Metric, label: str, caption: str, alternative: str
) -> Drawings:
    """Return the drawings of differences around 0; of many languages those that differ most, the others folded.

    Args:
        dots: The differences; those in the row `MEAN` are over all languages.
        languages: Those that have one, in their order.
        metric: Of the differences.
        label: Of the axis.
        caption: How to read the drawing.
        alternative: The text alternative.
    """
    scale = Scale(metric)
    means = [MEAN] if any(dot.row == MEAN for dot in dots) else []
    axis = short(f"{label} ({scale.axis})", 60)

    def dress(axes: Axes) -> None:
        axes.axvline(0, color=axes.xaxis.label.get_color(), linewidth=0.7, zorder=1.5)

    def draw(colours: Colours) -> Figure:
        rows = [*languages, *means]
        with drawing(colours):
            figure = draw_dots(dots, rows, scale.factor, colours)
            axes = figure.axes[0]
            axes.axvline(0, color=colours.muted, linewidth=0.8, zorder=1.5)
            if means:
                axes.axhline(len(rows) - 1.5, color=colours.muted, linewidth=0.6)
            around_zero(axes, 1.0 if scale.unit else 0.01)
            axes.set_xlabel(axis)
            return figure

    largest: dict[str, float] = {}
    for dot in dots:
        largest[dot.row] = max(largest.get(dot.row, 0.0), abs(dot.value))
    beyond = {dot.row for dot in dots if dot.filled}
    ordered = sorted(languages, key=lambda lang: (lang not in beyond, -largest[lang]))
    hidden = sum(lang in beyond for lang in ordered[MANY:])
    note = (
        f" Drawn are the {MANY} languages with the largest differences, those beyond noise first; of the others "
        f"{hidden or 'none'} {'differ' if hidden > 1 else 'differs'} beyond noise."
    )
    sorting = " Within a resource tier languages stand by the size of their largest difference."

    def draw_some(names: Iterable[str]) -> Callable[[Colours], Figure]:
        groups = {**grouped_rows(names, lambda lang: -largest[lang]), **({" ": means} if means else {})}
        least = 1.0 if scale.unit else 0.01
        return lambda colours: draw_columns(dots, groups, scale.factor, axis, colours, dress, around=least)

    return drawings_of(languages, draw, draw_some, ordered[:MANY], note, sorting, caption, alternative)


def drawings_of(
    languages: Sequence[str],
    draw: Callable[[Colours], Figure],
    draw_some: Callable[[Iterable[str]], Callable[[Colours], Figure]],
    names: Sequence[str],
    note: str,
    sorting: str,
    caption: str,
    alternative: str,
) -> Drawings:
    """Return one drawing of few languages; of many that of some of them, and that of all to unfold."""
    if len(languages) <= MANY:
        return Drawings(draw)
    everything = Folded(
        "all_languages", "All languages", f"{caption}{sorting}", f"All languages: {alternative}", draw_some(languages)
    )
    return Drawings(draw_some(names), f"{note}{sorting}", (everything,))


def draw_columns(
    dots: Sequence[Dot],
    groups: Mapping[str, Sequence[str]],
    factor: float,
    label: str,
    colours: Colours,
    dress: Callable[[Axes], None] = lambda axes: None,
    *,
    around: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw a column per run and a row per language, so that a column is read downwards; many runs in several blocks.

    Args:
        dots: What is drawn; those of other rows are left out.
        groups: The rows by what they have in common, which is written on their right unless it is blank.
        factor: What the values are multiplied by.
        label: Of the axes.
        colours: What to draw with.
        dress: Is called with every column's axes.
        around: How far the axes reach at least on both sides of 0; None: they need not have it.
        limits: Where the axes end at most.
    """
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    rows = [row for members in groups.values() for row in members]
    places, y = {}, 0.0
    for members in groups.values():
        for row in members:
            places[row] = y
            y += 1
        y += 0.4
    tall = y - 0.4
    dots = [dot for dot in dots if dot.row in places]
    runs = sorted({dot.run for dot in dots})
    blocks = [runs[start : start + _MOST_COLUMNS] for start in range(0, len(runs), _MOST_COLUMNS)]
    left = 0.2 + 0.085 * max(len(short(row, 10)) for row in rows)
    right, gap, down = 0.3, 0.07, _ROW * tall
    height = (down + _HEAD + _BELOW) * len(blocks)
    across = (WIDTH - left - right - gap * (len(blocks[0]) - 1)) / len(blocks[0])
    low, high = _range(dots, factor, around, limits)
    every_second = list(places.values())[::2]
    with drawing(colours):
        figure = empty(WIDTH, height)
        for number, block in enumerate(blocks):
            top = height - number * (down + _HEAD + _BELOW) - _HEAD
            for column, run in enumerate(block):
                x = left + column * (across + gap)
                axes = figure.add_axes((x / WIDTH, (top - down) / height, across / WIDTH, down / height))
                bands = [Path([(low, y - 0.5), (high, y - 0.5), (high, y + 0.5), (low, y + 0.5)]) for y in every_second]
                axes.add_patch(PathPatch(Path.make_compound_path(*bands), color=colours.band, linewidth=0))
                axes.set_xlim(low, high)
                axes.set_ylim(tall - 0.5, -0.5)
                row_places = places if column == 0 else {}
                axes.set_yticks(list(row_places.values()), [short(row, 10) for row in row_places])
                axes.tick_params(axis="y", length=0, labelsize=9)
                axes.tick_params(axis="x", labelsize=8)
                if len(block) > 3:
                    axes.set_xticks(_few_ticks(low, high, around is not None))
                axes.spines["left"].set_visible(False)
                dress(axes)
                _draw_column(axes, [dot for dot in dots if dot.run == run], places, factor, colours)
                head: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False, "color": colours.run(run)}
                axes.plot(0.5, 1 + 0.13 / down, run_marker(run), markersize=5.5, markeredgewidth=0, **head)
            for name, members in groups.items():
                if members and name.strip():
                    middle = (places[members[0]] + places[members[-1]]) / 2
                    axes.annotate(
                        name,
                        (1, middle),
                        (6, 0),
                        xycoords=axes.get_yaxis_transform(),
                        textcoords="offset points",
                        rotation=90,
                        va="center",
                        color=colours.muted,
                        fontsize=9,
                        annotation_clip=False,
                    )
            figure.text(
                (left + (WIDTH - left - right) / 2) / WIDTH, (top - down - 0.3) / height, label, ha="center", va="top"
            )
        return figure


def _few_ticks(low: float, high: float, around: bool) -> list[float]:
    """Return two ticks that are far from each other and from the next column; 0 has a line of its own."""
    from matplotlib.ticker import MaxNLocator

    edge = 0.1 * (high - low)
    inside = [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low + edge <= tick <= high - edge]
    inside = [tick for tick in inside if tick or not around]
    return inside if len(inside) < 2 else [inside[0], inside[-1]]


def _range(
    dots: Sequence[Dot], factor: float, around: float | None, limits: tuple[float, float] | None
) -> tuple[float, float]:
    values = [value * factor for dot in dots for value in (dot.value, *(dot.ends or ()))]
    low, high = min(values), max(values)
    if around is not None:
        low, high = min(low, -around), max(high, around)
    margin = 0.06 * ((high - low) or 1.0)
    low, high = low - margin, high + margin
    return (max(low, limits[0]), min(high, limits[1])) if limits else (low, high)


def _draw_column(axes: Axes, dots: Sequence[Dot], places: Mapping[str, float], factor: float, colours: Colours) -> None:
    """Draw a run's dots: its intervals as one line with gaps, the markers of each kind at once."""
    if not dots:
        return
    colour, marker = colours.run(dots[0].run), run_marker(dots[0].run)
    xs, ys = [], []
    for dot in dots:
        if dot.ends is not None:
            xs += [dot.ends[0] * factor, dot.ends[1] * factor, float("nan")]
            ys += [places[dot.row]] * 3
    axes.plot(xs, ys, color=colour, linewidth=1.0, alpha=0.75)
    for filled in (False, True):
        some = [dot for dot in dots if dot.filled == filled]
        face = colour if filled else colours.by_name["paper"]
        axes.plot(
            [dot.value * factor for dot in some],
            [places[dot.row] for dot in some],
            marker,
            markersize=4.2,
            color=colour,
            markerfacecolor=face,
            markeredgewidth=1.0,
            clip_on=False,
        )


def draw_dots(dots: Iterable[Dot], rows: Sequence[str], factor: float, colours: Colours) -> Figure:
    """Draw values times a factor: every second row is shaded, and each run has its place within a row."""
    dots = list(dots)
    runs = sorted({dot.run for dot in dots})
    pitch, labels = max(LINE * 1.6, 0.11 * len(runs) + 0.12), [short(name, 10) for name in rows]
    left = 0.2 + 0.085 * max(map(len, labels))
    step = min(0.24, 0.72 / max(len(runs), 1))
    with drawing(colours):
        figure, axes = canvas(height=pitch * len(rows) + 0.6, top=0.1, left=max(0.45, left), right=0.3)
        for row in range(0, len(rows), 2):
            axes.axhspan(row - 0.5, row + 0.5, color=colours.band, linewidth=0)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        for dot in dots:
            colour = colours.run(dot.run)
            height = rows.index(dot.row) + (runs.index(dot.run) - (len(runs) - 1) / 2) * step
            if dot.ends is not None:
                ends = [end * factor for end in dot.ends]
                axes.plot(ends, [height, height], color=colour, linewidth=1.1, alpha=0.75)
            axes.plot(
                dot.value * factor,
                height,
                run_marker(dot.run),
                markersize=4.8,
                color=colour,
                markerfacecolor=colour if dot.filled else colours.by_name["paper"],
                markeredgewidth=1.1,
                clip_on=False,
            )
        return figure
