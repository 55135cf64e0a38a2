"""Grids of values as rasters that are to be seen on light and dark paper: the nearer to 0, the less colour.

Above 0 is one colour and below 0 another, in every figure; what is within noise can be grey instead. A place without a
value is crossed out where cells are large, and grey where they are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.drawing.canvas import boxed
from lm_eval_moe.drawing.palette import Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["NOTHING", "OUTLIER", "colour_bar", "draw_grid", "limit_of", "mark_outliers"]

NOTHING = (0.5, 0.5, 0.5, 0.3)
"""The colour of a place without a value, on light and dark paper."""

OUTLIER = 2.0
"""So many times the value with the full colour is an outlier, which has a dot."""

_OPAQUE, _GREY = 0.85, (0.5, 0.5, 0.5)
_SHARE = 0.98  # of the values are within the scale; of up to 50 all


def limit_of(values: NDArray[np.float64], noise: float = 0.0) -> float:
    """Return the value with the full colour; never 0.

    Args:
        values: Of all grids with this scale; those that are not finite do not count.
        noise: How far from 0 values are by chance. Such a value has half of the colour at most, however small all are.

    Returns:
        The size that 98 % of the values do not exceed, so that one extreme value does not take the colour of all
        others, but at least twice the noise.
    """
    magnitudes = np.abs(values[np.isfinite(values)])
    robust = float(np.quantile(magnitudes, _SHARE, method="higher")) if magnitudes.size else 0.0
    return max(robust or float(magnitudes.max(initial=0.0)), 2 * noise) or 1.0


def draw_grid(
    axes: Axes,
    values: NDArray[np.float64],
    limit: float,
    colours: Colours,
    beyond: NDArray[np.bool_] | None = None,
) -> None:
    """Draw ``[rows, columns]`` values, the first row on top; NaN is `NOTHING`.

    Args:
        axes: Where.
        values: ``[rows, columns]``.
        limit: The value with the full colour; larger ones have no more.
        colours: What to draw with.
        beyond: Which values are beyond noise ``[rows, columns]``: the others are grey. None: nothing is known of it.
    """
    # A pixel a cell: the reader's program scales it without smoothing.
    axes.imshow(
        _coloured(values, limit, colours, beyond),
        interpolation="none",
        aspect="auto",
        extent=(-0.5, values.shape[1] - 0.5, values.shape[0] - 0.5, -0.5),
    )


def mark_outliers(axes: Axes, values: NDArray[np.float64], limit: float, colours: Colours) -> None:
    """Put a dot on the values far beyond the scale, whose colour would hide how large they are."""
    rows, columns = np.nonzero(np.abs(np.nan_to_num(values)) > OUTLIER * limit)
    if rows.size:
        axes.plot(columns, rows, "o", color=colours.ink, markersize=1.8, markeredgewidth=0, zorder=2.2)


def colour_bar(
    axes: Axes,
    limit: float,
    label: str,
    colours: Colours,
    form: str = "{:+.2f}",
    *,
    signed: bool = True,
    largest: float = 0.0,
) -> None:
    """Draw the scale from -limit, or from 0, to limit along the axes' longer side (horizontal).

    Args:
        axes: Where.
        limit: The value with the full colour.
        label: What the values are.
        colours: What to draw with.
        form: How the ends are written.
        signed: Whether values are on both sides of 0.
        largest: The largest size of a value: where it exceeds the limit, the ends say so.
    """
    ends = (-limit, limit) if signed else (0.0, limit)
    draw_grid(axes, np.linspace(*ends, 64)[None], limit, colours)
    texts = [form.format(value).replace("-", "\N{MINUS SIGN}") for value in ends]
    if largest > limit * (1 + 1e-9):
        texts = [f"\N{LESS-THAN OR EQUAL TO} {texts[0]}", f"\N{GREATER-THAN OR EQUAL TO} {texts[1]}"]
    if signed:
        axes.set_xticks([-0.5, 31.5, 63.5], [texts[0], "0", texts[1]])
    else:
        axes.set_xticks([-0.5, 63.5], ["0", texts[1]])
    axes.set_yticks([])
    axes.tick_params(length=2, labelsize=9)
    boxed(axes)
    axes.set_xlabel(label, fontsize=9)


def _coloured(
    values: NDArray[np.float64], limit: float, colours: Colours, beyond: NDArray[np.bool_] | None
) -> NDArray[Any]:
    from matplotlib.colors import to_rgb

    pixels = np.zeros((*values.shape, 4))
    pixels[..., :3] = np.where(np.nan_to_num(values)[..., None] < 0, to_rgb(colours.low), to_rgb(colours.high))
    if beyond is not None:
        pixels[~beyond, :3] = _GREY
    pixels[..., 3] = _OPAQUE * np.clip(np.abs(np.nan_to_num(values)) / limit, 0.0, 1.0)
    pixels[~np.isfinite(values)] = NOTHING
    return pixels
