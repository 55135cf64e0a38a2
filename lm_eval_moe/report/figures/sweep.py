"""A sweep's heat map: every cell's gain over the baseline, above that of its random controls."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.drawing.cells_by_languages import Gains, draw_cells_by_languages
from lm_eval_moe.multilingual.languages import by_tier
from lm_eval_moe.number_text import Scale
from lm_eval_moe.report.figures._base import SWEEP, Folded, ReportFigure
from lm_eval_moe.report.figures._tiers import MANY
from lm_eval_moe.report.wording import plural
from lm_eval_moe.results.sweep_finding import sweep_finding
from lm_eval_moe.results.sweeps import MEAN, SweepBenchmark, SweepEffect, gains_to_draw, heat_map_caption
from lm_eval_moe.tables import TableValue

__all__ = ["sweep_heat_map"]

_COLUMNS = (
    *("language", "baseline", "gain", "control_gain", "gain_over_control", "low", "high"),
    *("new_draw_low", "new_draw_high", "new_draw_p", "rank_p", "corrected_p", "draws"),
)
_TITLE = "Gain over the baseline"
_NAMED = 4
_TIERS = (
    f" The first columns are means over the languages of a resource tier (without a test), then the {_NAMED} languages "
    "with the largest gains or losses."
)


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
    gains, caption = gains_to_draw(benchmark), heat_map_caption(benchmark)
    alternative = (
        f"Heat map of the gain in {benchmark.metric.title} over the baseline for {len(benchmark.cells)} cells and "
        f"{plural(len(benchmark.languages), 'language')}, with that of random controls. The values are in the table."
    )
    panel, folded = gains, tuple[Folded, ...]()
    if len(benchmark.languages) > MANY:
        panel = _by_tier(benchmark, gains)
        every = Folded(
            "all_languages",
            "All languages",
            caption,
            f"All languages: {alternative}",
            lambda colours: draw_cells_by_languages(gains, colours),
        )
        folded = (every,)
    return ReportFigure(
        _TITLE,
        f"{caption}{_TIERS if folded else ''}",
        alternative,
        ("benchmark", *names, "experts", *_COLUMNS),
        rows,
        lambda colours: draw_cells_by_languages(panel, colours),
        finding=sweep_finding(benchmark, Scale(benchmark.metric)),
        tabulated=False,
        folded=folded,
    )


def _by_tier(benchmark: SweepBenchmark, gains: Gains) -> Gains:
    """Return the means of the resource tiers, the languages with the largest gains and losses, and the mean of all."""
    steered = next(iter(gains.kinds.values()))
    places = {language: place for place, language in enumerate(gains.languages)}
    largest = np.nanmax(np.abs(np.where(np.isfinite(steered), steered, 0.0)), axis=0)
    ordered = sorted(benchmark.languages, key=lambda language: -largest[places[language]])
    extremes = [language for language in benchmark.languages if language in ordered[:_NAMED]]
    tiers = by_tier(benchmark.languages)
    singles = [places[name] for name in (*extremes, MEAN)]
    kinds = {}
    for kind, values in gains.kinds.items():
        means = [_means(values[:, [places[language] for language in members]]) for members in tiers.values()]
        kinds[kind] = np.column_stack([*means, values[:, singles]])
    unknown = np.zeros((len(gains.cells), len(tiers)), dtype=bool)
    beyond = None if gains.beyond is None else np.hstack([unknown, gains.beyond[:, singles]])
    return replace(gains, languages=[*tiers, *extremes, MEAN], kinds=kinds, beyond=beyond)


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of rows over what is known; NaN where nothing is."""
    is_number = np.isfinite(values)
    total, count = np.where(is_number, values, 0.0).sum(1), is_number.sum(1)
    means: NDArray[np.float64] = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return means


def _numbers(effect: SweepEffect) -> tuple[TableValue, ...]:
    over = effect.over_control
    gains: tuple[TableValue, ...] = (None,) * 7
    if over is not None:
        gains = over.gain, over.low, over.high, over.new_draw_low, over.new_draw_high, over.new_draw_p, over.rank_p
    draws = len(over.per_control) if over else 0
    return effect.baseline, effect.gain.value, effect.control, *gains, effect.corrected_p, draws
