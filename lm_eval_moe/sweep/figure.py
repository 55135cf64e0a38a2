"""A sweep's figure: gain over the baseline, cells by languages, the steered ones above their random controls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from lm_eval_moe.drawing import require_matplotlib
from lm_eval_moe.drawing.canvas import drawing
from lm_eval_moe.drawing.cells_by_languages import Gains, draw_cells_by_languages
from lm_eval_moe.drawing.palette import file_colours
from lm_eval_moe.drawing.picture import picture, put_title
from lm_eval_moe.files import write_whole
from lm_eval_moe.sweep.spec import SweepSpec
from lm_eval_moe.sweep.summary import MEAN, CellEffect, Effect, Summary

__all__ = ["save_figure"]

_FORMS: tuple[Literal["png", "svg"], ...] = ("png", "svg")


def save_figure(sweep: SweepSpec, summary: Summary, folder: Path, name: str) -> None:
    """Write the heat map of a benchmark as PNG and SVG.

    Args:
        sweep: The sweep.
        summary: One benchmark of it, with at least one cell.
        folder: Where to.
        name: The files' name without its suffix.

    Raises:
        UserError: Matplotlib is not installed, or a file cannot be written.
    """
    require_matplotlib("the figure of the sweep")
    title = f"{summary.benchmark}: gain in {summary.metric.removesuffix(',none')} over the baseline"
    by = ", ".join(axis.name for axis in sweep.axes)
    colours = file_colours()
    figure = draw_cells_by_languages(_gains(sweep, summary), colours)
    with drawing(colours):
        put_title(figure, f"{title}, by {by}" if by else title)
    for form in _FORMS:
        write_whole(folder / f"{name}.{form}", picture(figure, form, title), "figure")


def _gains(sweep: SweepSpec, summary: Summary) -> Gains:
    several = len(summary.languages) > 1
    columns = [*summary.languages, *([MEAN] if several else [])]
    kinds: dict[str, Callable[[Effect], float | None]] = {"steered": lambda effect: effect.gain.value}
    if sweep.controls:
        kinds["random controls"] = lambda effect: effect.control
    factor, unit, decimals = (100, "percentage points", 1) if summary.is_share else (1, "no unit", 2)
    grids = {
        kind: factor * np.array([[_value(cell.effects.get(name), of) for name in columns] for cell in summary.cells])
        for kind, of in kinds.items()
    }
    cells = [_label(sweep, cell) for cell in summary.cells]
    return Gains(cells, columns, several, grids, unit, decimals)


def _label(sweep: SweepSpec, cell: CellEffect) -> str:
    return ", ".join(
        text.replace("-", "\N{MINUS SIGN}") if axis.is_numeric else text
        for axis, text in zip(sweep.axes, cell.cell.texts, strict=True)
    )


def _value(effect: Effect | None, of: Callable[[Effect], float | None]) -> float:
    value = None if effect is None else of(effect)
    return float("nan") if value is None else value
