"""A sweep's figure: gain over the baseline, languages x strength, the steered cells above their random controls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.drawing import INK, NOTHING, STYLE, require_matplotlib
from lm_eval_moe.number_text import Scale
from lm_eval_moe.sweep.spec import Axis, SweepSpec, plain
from lm_eval_moe.sweep.summary import MEAN, CellEffect, Effect, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["save_figure"]

MINUS = "\N{MINUS SIGN}"

_CELL_WIDTH, _CELL_HEIGHT = 0.52, 0.24  # inches
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP, _BETWEEN = 0.95, 1.05, 0.75, 0.55, 0.18, 0.62


def save_figure(sweep: SweepSpec, summary: Summary, path: str | Path) -> None:
    """Draw a panel for every combination of the axes besides the strength, with that of its controls below.

    The columns are the values of the first numeric axis, or all cells where there is none.

    Args:
        sweep: The sweep.
        summary: One benchmark of it, with at least one cell.
        path: A ``.png`` or ``.svg`` file.

    Raises:
        UserError: Matplotlib is not installed.
        OSError: The file cannot be written.
    """
    require_matplotlib("the figure of the sweep")
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    strength = next((axis for axis in sweep.axes if axis.is_numeric), None)
    panels = _panels(sweep, summary, strength)
    rows = [*summary.languages, *([MEAN] if len(summary.languages) > 1 else [])]
    kinds = ["steered", *(["random control"] if sweep.controls else [])]
    scale = 100 if summary.is_share else 1
    grids = {
        (kind, title): scale * np.array([[_value(cell, row, kind) for cell in cells] for row in rows])
        for title, cells in panels.items()
        for kind in kinds
    }
    top = max((float(np.nanmax(np.abs(grid))) for grid in grids.values() if np.isfinite(grid).any()), default=0.0)
    norm = TwoSlopeNorm(0.0, -(top or 1.0), top or 1.0)
    labels = {title: [_label(cell, sweep, strength) for cell in cells] for title, cells in panels.items()}
    turned = strength is None and any(len(text) > 6 for texts in labels.values() for text in texts)
    widths = [_CELL_WIDTH * len(cells) for cells in panels.values()]
    height = _CELL_HEIGHT * len(rows)
    bottom = _BOTTOM + (0.07 * max(len(text) for texts in labels.values() for text in texts) if turned else 0.0)
    width = max(5.2, _LEFT + sum(widths) + _GAP * (len(widths) - 1) + _RIGHT)
    total = _TOP + (height + _BETWEEN) * len(kinds) - _BETWEEN + bottom
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, total))
        FigureCanvasAgg(figure)
        for line, kind in enumerate(kinds):
            y = (total - _TOP - height - line * (height + _BETWEEN)) / total
            x = _LEFT
            for place, (title, panel_width) in enumerate(zip(panels, widths, strict=True)):
                axes = figure.add_axes((x / width, y, panel_width / width, height / total))
                axes.pcolormesh(grids[kind, title], cmap="RdBu", norm=norm, edgecolors="white", linewidth=0.6)
                _dress(axes, rows if place == 0 else None, labels[title] if line == len(kinds) - 1 else None, turned)
                axes.set_facecolor(NOTHING)
                if rows[-1] == MEAN:
                    axes.axhline(len(rows) - 1, color=INK, linewidth=0.8)
                _write_values(axes, grids[kind, title], top, summary.is_share)
                if title and line == 0:
                    axes.set_title(title, fontsize=9, pad=5)
                if place == 0:
                    axes.annotate(
                        kind,
                        (0, 1),
                        xytext=(-0.85 * 72, 8),
                        xycoords="axes fraction",
                        textcoords="offset points",
                        fontweight="bold",
                        va="bottom",
                        annotation_clip=False,
                    )
                x += panel_width + _GAP
        if strength is not None:
            figure.text((_LEFT + (x - _GAP - _LEFT) / 2) / width, 0.12 / total, strength.name, ha="center", va="bottom")
        colours = figure.add_axes(((x + 0.12) / width, (bottom + 0.1) / total, 0.12 / width, min(1.6, height) / total))
        bar = figure.colorbar(ScalarMappable(norm, "RdBu"), cax=colours)
        bar.outline.set_linewidth(0.5)
        bar.set_label(Scale(summary).points.strip(), fontsize=8)
        title = f"{summary.benchmark}: gain in {summary.metric.removesuffix(',none')} over the baseline"
        figure.text(0.1 / width, 1 - 0.14 / total, title, ha="left", va="top", fontsize=10, fontweight="bold")
        figure.savefig(path, dpi=150, metadata={"Date": None} if str(path).endswith(".svg") else None)


def _panels(sweep: SweepSpec, summary: Summary, strength: Axis | None) -> dict[str, list[CellEffect]]:
    panels: dict[str, list[CellEffect]] = {}
    for each in summary.cells:
        shown = [
            f"{axis.name} {text}"
            for axis, text in zip(sweep.axes, each.cell.texts, strict=True)
            if strength is not None and axis is not strength
        ]
        panels.setdefault(", ".join(shown), []).append(each)
    return panels


def _label(cell: CellEffect, sweep: SweepSpec, strength: Axis | None) -> str:
    return plain(cell.cell.settings[strength.key]).replace("-", MINUS) if strength else ", ".join(cell.cell.texts)


def _value(cell: CellEffect, row: str, kind: str) -> float:
    effect: Effect | None = cell.effects.get(row)
    if effect is None:
        return float("nan")
    return effect.gain.value if kind == "steered" else float("nan") if effect.control is None else effect.control


def _dress(axes: Axes, rows: Sequence[str] | None, columns: Sequence[str] | None, turned: bool) -> None:
    axes.invert_yaxis()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_yticks([] if rows is None else np.arange(len(rows)) + 0.5, [] if rows is None else list(rows))
    names = list(columns or [])
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90 if turned else 0)


def _write_values(axes: Axes, grid: Any, top: float, share: bool) -> None:
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            text = f"{value:+.1f}" if share else f"{value:+.2f}"
            strong = top > 0 and abs(value) > 0.62 * top
            axes.text(
                column + 0.5,
                row + 0.5,
                text[1:] if float(text) == 0 else text.replace("-", MINUS),
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if strong else INK,
            )
