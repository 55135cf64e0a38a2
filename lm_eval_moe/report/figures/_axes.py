"""What the report's figures have in common: bands of layers, names that do not overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.drawing.canvas import LINE, WIDTH, empty, short
from lm_eval_moe.drawing.palette import LINE_COLOURS, RUN_COLOURS, Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    *("around_zero", "band_names", "canvas", "colour_key", "end_labels", "family_marker", "layer_ticks", "name_points"),
    "run_marker",
]

_MARKERS = ("o", "s", "D", "^", "v", "P")
_RADIUS = 3.2  # points, of a point's mark
_PLACES = ((1, 5), (-1, 5), (1, -5), (-1, -5), (0, 10), (0, -10))
"""Where a name can stand beside its point: to the left (-1), above or below (0), to the right, and points upwards."""


def run_marker(number: int) -> str:
    """Return a run's marker; runs of the same colour have different ones."""
    return _MARKERS[(number + number // RUN_COLOURS) % len(_MARKERS)]


def family_marker(number: int) -> str:
    """Return a family's marker; up to 48 families, those of the same colour have different ones."""
    return _MARKERS[(number % LINE_COLOURS + number // LINE_COLOURS) % len(_MARKERS)]


def canvas(
    height: float, *, top: float = 0.25, left: float = 0.62, right: float = 0.44, bottom: float = 0.5
) -> tuple[Figure, Axes]:
    """Return a figure of the common width with fixed margins in inches."""
    figure = empty(WIDTH, height)
    return figure, figure.add_axes(
        (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - bottom - top) / height)
    )


def colour_key(axes: Axes, entries: Sequence[tuple[str, str]], colours: Colours, *, above: float) -> None:
    """Write what colours mean, one after the other, so many points above the axes."""
    x = 0.0
    for text, colour in entries:
        for part, shade in (("\N{BLACK SQUARE}", colour), (text, colours.ink)):
            axes.annotate(
                part, (0, 1), (x, above), xycoords="axes fraction", textcoords="offset points", color=shade, fontsize=9
            )
            x += 4.9 * len(part) + 6


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


def name_points(
    axes: Axes, points: Sequence[tuple[float, float, str]], colours: Colours, *, every: bool = True
) -> None:
    """Write names beside their points where they cover no other point or name.

    Args:
        axes: Where the points are drawn; its limits are final.
        points: Their places and names, the most important first.
        colours: What to draw with.
        every: Whether a name for which there is no room stands where it covers least; else it is left out.
    """
    at = [axes.transData.transform((x, y)) for x, y, _ in points]  # pixels, which are points
    marks = [(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in at]
    names: list[tuple[float, ...]] = []
    for number, ((data_x, data_y, name), (x, y)) in enumerate(zip(points, at, strict=True)):
        label = short(name, 8)
        wide = 6.2 * len(label) / 2
        boxes_to_avoid = [*marks[:number], *marks[number + 1 :], *names]
        places = [(side * (wide + 5), up) for side, up in _PLACES]
        boxes = [(x + dx - wide, y + dy - 5, x + dx + wide, y + dy + 5) for dx, dy in places]
        covered = [sum(_overlap(box, obstacle) for obstacle in boxes_to_avoid) for box in boxes]
        best = covered.index(min(covered))
        if every or not covered[best]:
            names.append(boxes[best])
            style: dict[str, Any] = {"ha": "center", "va": "center", "color": colours.ink}
            axes.annotate(label, (data_x, data_y), places[best], textcoords="offset points", **style)


def _overlap(one: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Return by how much two boxes overlap, in square points."""
    across, down = (min(one[end], second[end]) - max(one[end - 2], second[end - 2]) for end in (2, 3))
    return max(across, 0.0) * max(down, 0.0)
