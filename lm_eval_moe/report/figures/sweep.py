"""A sweep's heat map: every cell's gain over the baseline, above that of its random controls."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lm_eval_moe.escaping import printable
from lm_eval_moe.number_text import Scale, signed
from lm_eval_moe.report.figures._axes import WIDTH, drawing, empty, short
from lm_eval_moe.report.figures._base import Cell, ReportFigure
from lm_eval_moe.report.figures._raster import colour_bar, draw_grid, limit_of
from lm_eval_moe.report.palette import Colours
from lm_eval_moe.report.sweeps import MEAN, SweepBenchmark, SweepCell, SweepEffect
from lm_eval_moe.report.wording import plural, sentence_case

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["sweep_finding", "sweep_heat_map", "whole"]

_COLUMNS = ("language", "baseline", "gain", "control_gain", "gain_over_control", "low", "high", "draws")
_LABEL = 22  # characters of a row's label


def sweep_heat_map(benchmark: SweepBenchmark) -> ReportFigure | None:
    """Draw rows of cells by columns of languages: steered, and below it the random controls."""
    if not benchmark.cells:
        return None
    names = list(benchmark.cells[0].settings)
    rows: list[tuple[Cell, ...]] = [
        (benchmark.name, *cell.settings.values(), cell.experts, language, *_numbers(effect))
        for cell in benchmark.cells
        for language, effect in cell.effects.items()
    ]
    return ReportFigure(
        "sweep",
        "Gain over the baseline",
        f"{sentence_case(benchmark.metric.title)} less the unsteered one, by cell of the grid ({', '.join(names)}) and "
        "language; below it the mean of the cell's random controls: as many experts per layer, drawn at random and "
        "steered the same way.",
        f"Heat map of the gain in {benchmark.metric.title} over the baseline for {len(benchmark.cells)} cells and "
        f"{plural(len(benchmark.languages), 'language')}, with that of random controls. The values are in the table.",
        ("benchmark", *names, "experts", *_COLUMNS),
        rows,
        lambda colours: _draw(benchmark, colours),
        finding=sweep_finding(benchmark),
        tabulated=False,
    )


def whole(benchmark: SweepBenchmark) -> str:
    """Return the name of the effect on all languages."""
    return MEAN if len(benchmark.languages) > 1 else benchmark.languages[0]


def sweep_finding(benchmark: SweepBenchmark) -> str:
    """Say how many cells are beyond their random controls, and which does best."""
    scale, name = Scale(benchmark.metric), whole(benchmark)
    sign = 1.0 if benchmark.higher_is_better else -1.0
    known = [
        (sign * effect.over, cell, effect)
        for cell in benchmark.cells
        if (effect := cell.effects.get(name)) is not None and effect.over is not None
    ]
    if not known:
        return "The cells have no random controls: nothing can be said for the choice of experts."
    better = [cell for _, cell, effect in known if _beyond(effect) and sign * (effect.over or 0.0) > 0]
    worse = [cell for _, cell, effect in known if _beyond(effect) and sign * (effect.over or 0.0) < 0]
    _, best, effect = max(known, key=lambda each: each[0])
    text = f"Largest gain over random controls: {best.title}, {scale.change(effect.over or 0.0)}{scale.points}"
    if effect.low is not None and effect.high is not None:
        text += f" (95 % interval {scale.change(effect.low)} to {scale.change(effect.high)})"
        text += "; its interval leaves out 0." if best in better else ", no difference beyond noise."
    else:
        text += ", without an interval."
    count = plural(len(known), "cell")
    if not better and not worse:
        return f"{text} Of {count} none differs from its random controls beyond noise."
    return (
        f"{text} Of {count} {len(better)} {'is' if len(better) == 1 else 'are'} better and {len(worse)} worse than "
        f"their random controls with the whole interval; with so many looks, about {0.025 * len(known):.1f} of each "
        "would be by chance alone."
    )


def _beyond(effect: SweepEffect) -> bool:
    return effect.low is not None and effect.high is not None and not effect.low <= 0 <= effect.high


def _numbers(effect: SweepEffect) -> tuple[Cell, ...]:
    return (effect.baseline, effect.gain, effect.control, effect.over, effect.low, effect.high, effect.draws)


def _draw(benchmark: SweepBenchmark, colours: Colours) -> Figure:
    scale = Scale(benchmark.metric)
    columns = [*benchmark.languages, *([MEAN] if len(benchmark.languages) > 1 else [])]
    kinds: list[tuple[str, Callable[[SweepEffect], float | None]]] = [("steered", lambda effect: effect.gain)]
    if any(effect.control is not None for cell in benchmark.cells for effect in cell.effects.values()):
        kinds.append(("random controls", lambda effect: effect.control))
    grids = [scale.factor * _grid(benchmark.cells, columns, of) for _, of in kinds]
    limit = limit_of(np.stack(grids))
    labels = [textwrap.wrap(printable(cell.title), _LABEL)[:2] or [""] for cell in benchmark.cells]
    left = 0.25 + 0.068 * max(len(line) for label in labels for line in label)
    pitch = 0.21 if all(len(label) == 1 for label in labels) else 0.3
    right, top, gap, foot = 0.08, 0.52, 0.62, 0.72
    width, height = WIDTH - left - right, pitch * len(labels)
    total = top + (height + gap) * len(kinds) - gap + foot
    with drawing(colours):
        figure = empty(WIDTH, total)
        for place, ((kind, _), grid) in enumerate(zip(kinds, grids, strict=True)):
            y = total - top - height - place * (height + gap)
            axes = figure.add_axes((left / WIDTH, y / total, width / WIDTH, height / total))
            draw_grid(axes, grid, limit, colours)
            _dress(axes, [short(name, 7) for name in columns], ["\n".join(label) for label in labels], colours)
            axes.annotate(
                kind,
                (0, 1),
                (-(left - 0.06) * 72, 20),
                xycoords="axes fraction",
                textcoords="offset points",
                va="bottom",
            )
            if width / len(columns) >= 0.33:
                _write(axes, grid, scale, colours, size=8.5 if width / len(columns) >= 0.39 else 7.5)
        bar = figure.add_axes((0.3, 0.48 / total, 0.5, 0.11 / total))
        colour_bar(bar, limit, scale.axis, colours, "{:+.1f}" if scale.unit else "{:+.3f}")
        return figure


def _grid(
    cells: Sequence[SweepCell], columns: Sequence[str], of: Callable[[SweepEffect], float | None]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    values = [[of(cell.effects[name]) if name in cell.effects else None for name in columns] for cell in cells]
    return np.array([[np.nan if value is None else value for value in row] for row in values], dtype=np.float64)


def _dress(axes: Axes, columns: Sequence[str], rows: Sequence[str], colours: Colours) -> None:
    axes.xaxis.tick_top()
    turned = len(columns) > 12
    axes.set_xticks(range(len(columns)), columns, rotation=90 if turned else 0, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=8.5)
    axes.tick_params(length=0, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.5)
    if columns[-1] == MEAN:
        axes.axvline(len(columns) - 1.5, color=colours.ink, linewidth=0.8)


def _write(
    axes: Axes, grid: np.ndarray[tuple[int, ...], np.dtype[np.float64]], scale: Scale, colours: Colours, *, size: float
) -> None:
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            text = signed(float(value), 1 if scale.unit else 2)
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colours.ink)
