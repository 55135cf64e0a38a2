"""Grids of values as rasters that are to be seen on light and dark paper: the nearer to 0, the less colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.drawing.canvas import boxed
from lm_eval_moe.drawing.palette import Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["NOTHING", "colour_bar", "draw_grid", "limit_of"]

NOTHING = (0.5, 0.5, 0.5, 0.16)
"""The colour of a place without a value, on light and dark paper."""

_OPAQUE = 0.85


def limit_of(values: NDArray[np.float64]) -> float:
    """Return the largest absolute value, which has the full colour; never 0."""
    known = np.abs(values[np.isfinite(values)])
    return float(known.max(initial=0.0)) or 1.0


def draw_grid(axes: Axes, values: NDArray[np.float64], limit: float, colours: Colours) -> None:
    """Draw ``[rows, columns]`` values, the first row on top; NaN is grey."""
    # A pixel a cell: the reader's program scales it without smoothing.
    axes.imshow(
        _coloured(values, limit, colours),
        interpolation="none",
        aspect="auto",
        extent=(-0.5, values.shape[1] - 0.5, values.shape[0] - 0.5, -0.5),
    )


def colour_bar(
    axes: Axes, limit: float, label: str, colours: Colours, form: str = "{:+.2f}", *, signed: bool = True
) -> None:
    """Draw the scale from -limit, or from 0, to limit along the axes' longer side (horizontal)."""
    ends = (-limit, limit) if signed else (0.0, limit)
    draw_grid(axes, np.linspace(*ends, 64)[None], limit, colours)
    texts = [form.format(value).replace("-", "\N{MINUS SIGN}") for value in ends]
    if signed:
        axes.set_xticks([-0.5, 31.5, 63.5], [texts[0], "0", texts[1]])
    else:
        axes.set_xticks([-0.5, 63.5], ["0", texts[1]])
    axes.set_yticks([])
    axes.tick_params(length=2, labelsize=9)
    boxed(axes)
    axes.set_xlabel(label, fontsize=9)


def _coloured(values: NDArray[np.float64], limit: float, colours: Colours) -> NDArray[Any]:
    from matplotlib.colors import to_rgb

    pixels = np.zeros((*values.shape, 4))
    pixels[..., :3] = np.where(np.nan_to_num(values)[..., None] < 0, to_rgb(colours.low), to_rgb(colours.high))
    pixels[..., 3] = _OPAQUE * np.clip(np.abs(np.nan_to_num(values)) / limit, 0.0, 1.0)
    pixels[~np.isfinite(values)] = NOTHING
    return pixels
