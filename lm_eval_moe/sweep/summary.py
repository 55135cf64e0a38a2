"""What the runs of a sweep add up to: every cell's gain over the baseline, beside that of its random controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lm_eval_moe.results import Benchmark, LabelledRun, Run, arrange
from lm_eval_moe.statistics import ControlGain, Difference, exact_test
from lm_eval_moe.sweep.cells import Cell, EmptyCell
from lm_eval_moe.sweep.store import BASELINE, RunStore

__all__ = ["MEAN", "OTHERS", "CellEffect", "Effect", "Summary", "summarise"]

MEAN, OTHERS = "mean", "mean without the reference"


@dataclass(frozen=True)
class Effect:
    """What a cell does to one language, or to the mean of several.

    Attributes:
        baseline: The unsteered score.
        gain: The steered score less the baseline's, paired by item where that is possible.
        exact_p: Two-sided p of the gain where the items' exact test takes no long time; else None.
        control: The mean of the controls' scores less the baseline's; None without controls.
        over_control: The steered score less the controls'; None without controls.
    """

    baseline: float
    gain: Difference
    exact_p: float | None
    control: float | None
    over_control: ControlGain | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything; JSON-ready."""
        own = asdict(self)
        return own | {"gain": own["gain"] | {"exact_p": own.pop("exact_p")}}


@dataclass(frozen=True)
class CellEffect:
    """A cell's effects on one benchmark, by language; `MEAN` is that of all, `OTHERS` without the reference."""

    cell: Cell
    effects: Mapping[str, Effect]


@dataclass(frozen=True)
class Summary:
    """A benchmark of the sweep.

    Attributes:
        benchmark: Its name.
        metric: Its main metric, ``acc,none``.
        is_share: Whether that is a share of items, to be shown in per cent.
        higher_is_better: Its direction.
        reference: The reference language.
        languages: The reference first, then from the baseline's best score to its worst.
        cells: Those that have been run so far, in the grid's order.
        waiting: How many cells have not been run yet.
        empty: Cells without experts.
    """

    benchmark: str
    metric: str
    is_share: bool
    higher_is_better: bool
    reference: str | None
    languages: tuple[str, ...]
    cells: tuple[CellEffect, ...]
    waiting: int
    empty: tuple[EmptyCell, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything; JSON-ready."""
        return {
            "benchmark": self.benchmark,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "reference": self.reference,
            "languages": list(self.languages),
            "cells": [
                {
                    "settings": dict(each.cell.settings),
                    "hash": each.cell.plan.hash,
                    "experts": each.cell.experts,
                    "control_hashes": [plan.hash for plan in each.cell.controls],
                    "effects": {name: effect.to_dict() for name, effect in each.effects.items()},
                }
                for each in self.cells
            ],
            "waiting": self.waiting,
            "empty": [{"settings": dict(each.settings), "reason": each.reason} for each in self.empty],
        }


def summarise(cells: Sequence[Cell], empty: Sequence[EmptyCell], store: RunStore) -> list[Summary]:
    """Compare the runs that there are so far, benchmark by benchmark; none without a baseline."""
    if BASELINE not in store:
        return []
    names = [BASELINE]
    ready = [cell for cell in cells if all(plan.hash in store for plan in (cell.plan, *cell.controls))]
    for cell in ready:
        names += [plan.hash for plan in (cell.plan, *cell.controls) if plan.hash not in names]
    runs = [Run(LabelledRun(name, store.read(name))) for name in names]
    benchmarks, _ = arrange(runs)
    at = {name: place for place, name in enumerate(names)}
    return [
        Summary(
            benchmark.name,
            benchmark.metric.key,
            benchmark.metric.is_share,
            benchmark.higher_is_better,
            benchmark.reference,
            benchmark.common,
            tuple(CellEffect(cell, _effects(benchmark, cell, at)) for cell in ready),
            len(cells) - len(ready),
            tuple(empty),
        )
        for benchmark in benchmarks
    ]


def _effects(benchmark: Benchmark, cell: Cell, at: Mapping[str, int]) -> dict[str, Effect]:
    sets = {lang: [lang] for lang in benchmark.common}
    if len(benchmark.common) > 1:
        sets[MEAN] = list(benchmark.common)
        if 0 < len(benchmark.others) < len(benchmark.common):
            sets[OTHERS] = list(benchmark.others)
    effects = {}
    steered, controls = at[cell.plan.hash], [at[plan.hash] for plan in cell.controls]
    for name, languages in sets.items():
        gain = benchmark.difference(steered, languages, benchmark.score_of)
        before = benchmark.mean(0, languages, benchmark.score_of)
        if gain is None or before is None:
            continue
        changes = benchmark.changes(steered, languages, benchmark.score_of)
        exact = None if changes is None else exact_test(changes)
        means = [benchmark.mean(run, languages, benchmark.score_of) for run in controls]
        known = [mean.value for mean in means if mean is not None]
        effects[name] = Effect(
            before.value,
            gain,
            None if exact is None else exact.p,
            math.fsum(known) / len(known) - before.value if known else None,
            benchmark.gain_over(controls, steered, languages),
        )
    return effects
