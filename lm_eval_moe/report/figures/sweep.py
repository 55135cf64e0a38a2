"""A sweep's heat map: every cell's gain over the baseline, above that of its random controls."""

from __future__ import annotations

from lm_eval_moe.drawing.cells_by_languages import draw_cells_by_languages
from lm_eval_moe.number_text import Scale
from lm_eval_moe.report.figures._base import SWEEP, ReportFigure
from lm_eval_moe.report.wording import plural, sentence_case
from lm_eval_moe.results.sweeps import SweepBenchmark, SweepEffect, gains_to_draw
from lm_eval_moe.tables import Cell

__all__ = ["sweep_finding", "sweep_heat_map"]

_COLUMNS = ("language", "baseline", "gain", "control_gain", "gain_over_control", "low", "high", "draws")
_TITLE = "Gain over the baseline"


@SWEEP.figure("sweep", order=10, title=_TITLE)
def sweep_heat_map(benchmark: SweepBenchmark) -> ReportFigure | None:
    """Draw rows of cells by columns of languages: steered, and below it the random controls."""
    if not benchmark.cells:
        return None
    names = list(benchmark.cells[0].fields)
    rows: list[tuple[Cell, ...]] = [
        (benchmark.benchmark, *cell.fields.values(), cell.experts, language, *_numbers(effect))
        for cell in benchmark.cells
        for language, effect in cell.effects.items()
    ]
    return ReportFigure(
        _TITLE,
        f"{sentence_case(benchmark.metric.title)} less the unsteered one, by cell of the grid ({', '.join(names)}) and "
        "language; below it the mean of the cell's random controls: as many experts per layer, drawn at random and "
        "steered the same way.",
        f"Heat map of the gain in {benchmark.metric.title} over the baseline for {len(benchmark.cells)} cells and "
        f"{plural(len(benchmark.languages), 'language')}, with that of random controls. The values are in the table.",
        ("benchmark", *names, "experts", *_COLUMNS),
        rows,
        lambda colours: draw_cells_by_languages(gains_to_draw(benchmark), colours),
        finding=sweep_finding(benchmark),
        tabulated=False,
    )


def sweep_finding(benchmark: SweepBenchmark) -> str:
    """Say how many cells are beyond their random controls, and which does best."""
    scale = Scale(benchmark.metric)
    sign = 1.0 if benchmark.higher_is_better else -1.0
    known = [
        (sign * effect.over_control.gain, cell, effect.over_control)
        for cell in benchmark.cells
        if (effect := cell.effects.get(benchmark.whole)) is not None and effect.over_control is not None
    ]
    if not known:
        return "The cells have no random controls: nothing can be said for the choice of experts."
    better = [cell for gain, cell, over in known if over.beyond and gain > 0]
    worse = [cell for gain, cell, over in known if over.beyond and gain < 0]
    _, best, over = max(known, key=lambda each: each[0])
    text = f"Largest gain over random controls: {best.title}, {scale.change(over.gain)}{scale.points}"
    if over.low is not None and over.high is not None:
        text += f" (95 % interval {scale.change(over.low)} to {scale.change(over.high)})"
        text += "; its interval leaves out 0." if best in better else ", no difference beyond noise."
    else:
        text += ", as not one item differs." if over.identical else ", without an interval."
    count = plural(len(known), "cell")
    if not better and not worse:
        return f"{text} Of {count} none differs from its random controls beyond noise."
    return (
        f"{text} Of {count} {len(better)} {'is' if len(better) == 1 else 'are'} better and {len(worse)} worse than "
        f"their random controls with the whole interval; with so many looks, about {0.025 * len(known):.1f} of each "
        "would be by chance alone."
    )


def _numbers(effect: SweepEffect) -> tuple[Cell, ...]:
    over = effect.over_control
    gains = (over.gain, over.low, over.high, len(over.per_control)) if over else (None, None, None, 0)
    return effect.baseline, effect.gain.value, effect.control, *gains
