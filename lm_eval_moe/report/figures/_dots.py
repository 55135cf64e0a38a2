"""Dot plots: a row a language, a marker a run, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.drawing.canvas import LINE, drawing, short
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.number_text import Scale
from lm_eval_moe.report.figures._axes import around_zero, canvas, run_marker
from lm_eval_moe.results.run import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MEAN", "Dot", "draw_changes", "draw_dots"]

MEAN = "mean"
"""The row below those of the languages."""


@dataclass(frozen=True)
class Dot:
    """A value of a run in a row; ``ends`` of its interval where it has one, ``filled`` unless it may be noise."""

    row: str
    run: int
    value: float
    ends: tuple[float, float] | None
    filled: bool = True


def draw_changes(dots: Sequence[Dot], rows: Sequence[str], metric: Metric, label: str, colours: Colours) -> Figure:
    """Draw differences around 0."""
    scale = Scale(metric)
    with drawing(colours):
        figure = draw_dots(dots, rows, scale.factor, colours)
        axes = figure.axes[0]
        axes.axvline(0, color=colours.muted, linewidth=0.8, zorder=1.5)
        if rows[-1] == MEAN:
            axes.axhline(len(rows) - 1.5, color=colours.muted, linewidth=0.6)
        around_zero(axes, 1.0 if scale.unit else 0.01)
        axes.set_xlabel(short(f"{label} ({scale.axis})", 60))
        return figure


def draw_dots(dots: Iterable[Dot], rows: Sequence[str], factor: float, colours: Colours) -> Figure:
    """Draw values times a factor: every second row is shaded, and each run has its place within a row."""
    dots = list(dots)
    runs = sorted({dot.run for dot in dots})
    pitch, shown = max(LINE * 1.6, 0.11 * len(runs) + 0.12), [short(name, 10) for name in rows]
    left = 0.2 + 0.085 * max(map(len, shown))
    step = min(0.24, 0.72 / max(len(runs), 1))
    with drawing(colours):
        figure, axes = canvas(height=pitch * len(rows) + 0.6, top=0.1, left=max(0.45, left), right=0.3)
        for row in range(0, len(rows), 2):
            axes.axhspan(row - 0.5, row + 0.5, color=colours.band, linewidth=0)
        axes.set_yticks(range(len(rows)), shown)
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
            )
        return figure
