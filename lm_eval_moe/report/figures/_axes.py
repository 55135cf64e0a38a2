"""What the report's figures have in common: bands of layers, names that do not overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.drawing.canvas import LINE, WIDTH, empty, short
from lm_eval_moe.drawing.palette import RUN_COLOURS, Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["around_zero", "band_names", "canvas", "end_labels", "layer_ticks", "name_points", "run_marker"]

_MARKERS = ("o", "s", "D", "^", "v", "P")


def run_marker(number: int) -> str:
    """Return a run's marker; runs of the same colour have different ones."""
    return _MARKERS[(number + number // RUN_COLOURS) % len(_MARKERS)]


def canvas(height: float, *, top: float = 0.25, left: float = 0.62, right: float = 0.44) -> tuple[Figure, Axes]:
    """Return a figure of the common width with fixed margins in inches."""
    figure = empty(WIDTH, height)
    return figure, figure.add_axes(
        (left / WIDTH, 0.5 / height, (WIDTH - left - right) / WIDTH, (height - 0.5 - top) / height)
    )


def around_zero(axes: Axes, least: float) -> None:
    """Let a horizontal axis reach at least so far on both sides of 0: differences that are all 0 are no large ones."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -least), max(high, least))
    axes.locator_params(axis="x", nbins=6)


def band_names(axes: Axes, bands: Mapping[str, Sequence[int]], colours: Colours) -> None:
    """Name the bands of layers above the axes and rule them off."""
    for name, layers in bands.items():
        if not layers:
            continue
        axes.text(
            (layers[0] + layers[-1]) / 2,
            1.015,
            name,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            color=colours.muted,
            fontsize=9.5,
        )
        if name != "late":
            axes.axvline(layers[-1] + 0.5, color=colours.muted, linewidth=0.6, linestyle=(0, (2, 2)))


def layer_ticks(axes: Axes, layers: Sequence[int], most: int = 13) -> None:
    """Write the numbers of some layers."""
    step = next(step for step in (1, 2, 4, 5, 10, 20, 50, 100, len(layers)) if len(layers) / step <= most)
    axes.set_xticks([layer for layer in layers if layer % step == 0])


def end_labels(axes: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Name the lines (value, name, colour) at their right ends, moved apart so that no two names overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * LINE / (axes.get_position().height * axes.figure.get_figheight())  # type: ignore[union-attr]
    ordered = sorted(ends)
    places: list[float] = []
    for value, _, _ in ordered:
        places.append(max(value, places[-1] + gap) if places else value)
    over = max(0.0, places[-1] - high)
    for i in range(len(places) - 1, -1, -1):  # back down, as far as the last was pushed over the top
        ceiling = places[i + 1] - gap if i + 1 < len(places) else places[i] - over
        places[i] = min(places[i], ceiling)
    for (_, name, colour), place in zip(ordered, places, strict=True):
        axes.text(x, place, f" {short(name, 8)}", color=colour, va="center", fontsize=10, clip_on=False)


def name_points(axes: Axes, points: Sequence[tuple[float, float, str]], colours: Colours) -> None:
    """Write each name beside its point, on the side with the most room."""
    at = {lang: (x, y, *axes.transData.transform((x, y))) for x, y, lang in points}  # data, then pixels
    taken: list[tuple[float, float]] = []
    sides = [(9.0, 9.0, "left"), (-9.0, 9.0, "right"), (9.0, -9.0, "left"), (-9.0, -9.0, "right")]
    for lang, (data_x, data_y, x, y) in at.items():
        others = [*taken, *(place[2:] for other, place in at.items() if other != lang)]

        def room(side: tuple[float, float, str], x: float = x, y: float = y, others: Any = others) -> float:
            return min((abs(x + 2 * side[0] - a) + 1.6 * abs(y + side[1] - b) for a, b in others), default=0.0)

        dx, dy, align = max(sides, key=lambda side: min(room(side), 40.0))
        taken.append((x + 2 * dx, y + dy))
        axes.annotate(
            short(lang, 8),
            (data_x, data_y),
            (dx * 0.5, dy * 0.7),
            textcoords="offset points",
            ha=align,
            va="center",
            color=colours.ink,
        )
