"""A sweep's heat map: every cell's gain over the baseline, above that of its random controls."""

from __future__ import annotations

from lm_eval_moe.drawing.cells_by_languages import draw_cells_by_languages
from lm_eval_moe.number_text import Scale
from lm_eval_moe.report.figures._base import SWEEP, ReportFigure
from lm_eval_moe.report.wording import plural
from lm_eval_moe.results.sweep_finding import sweep_finding
from lm_eval_moe.results.sweeps import SweepBenchmark, SweepEffect, gains_to_draw, heat_map_caption
from lm_eval_moe.tables import TableValue

__all__ = ["sweep_heat_map"]

_COLUMNS = (
    *("language", "baseline", "gain", "control_gain", "gain_over_control", "low", "high"),
    *("new_draw_low", "new_draw_high", "new_draw_p", "rank_p", "corrected_p", "draws"),
)
_TITLE = "Gain over the baseline"


@SWEEP.figure("sweep", order=10, title=_TITLE)
def sweep_heat_map(benchmark: SweepBenchmark) -> ReportFigure | None:
    """Draw rows of cells by columns of languages: steered, and below it the random controls."""
    if not benchmark.cells:
        return None
    names = list(benchmark.cells[0].fields)
    rows: list[tuple[TableValue, ...]] = [
        (benchmark.benchmark, *cell.fields.values(), cell.experts, language, *_numbers(effect))
        for cell in benchmark.cells
        for language, effect in cell.effects.items()
    ]
    return ReportFigure(
        _TITLE,
        heat_map_caption(benchmark),
        f"Heat map of the gain in {benchmark.metric.title} over the baseline for {len(benchmark.cells)} cells and "
        f"{plural(len(benchmark.languages), 'language')}, with that of random controls. The values are in the table.",
        ("benchmark", *names, "experts", *_COLUMNS),
        rows,
        lambda colours: draw_cells_by_languages(gains_to_draw(benchmark), colours),
        finding=sweep_finding(benchmark, Scale(benchmark.metric)),
        tabulated=False,
    )


def _numbers(effect: SweepEffect) -> tuple[TableValue, ...]:
    over = effect.over_control
    gains: tuple[TableValue, ...] = (None,) * 7
    if over is not None:
        gains = over.gain, over.low, over.high, over.new_draw_low, over.new_draw_high, over.new_draw_p, over.rank_p
    draws = len(over.per_control) if over else 0
    return effect.baseline, effect.gain.value, effect.control, *gains, effect.corrected_p, draws
