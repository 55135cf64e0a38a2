"""What the runs of a sweep add up to: every cell's gain over the baseline, beside that of its random controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lm_eval_moe.results import Benchmark, LabelledRun, Run, arrange
from lm_eval_moe.results.sweeps import MEAN, OTHERS, EmptyCell, SweepBenchmark, SweepCell, SweepEffect
from lm_eval_moe.statistics import exact_test
from lm_eval_moe.sweep.cells import Cell
from lm_eval_moe.sweep.store import BASELINE, RunStore

__all__ = ["summarise"]


def summarise(cells: Sequence[Cell], empty: Sequence[EmptyCell], store: RunStore) -> list[SweepBenchmark]:
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
        SweepBenchmark(
            benchmark.name,
            benchmark.metric,
            benchmark.higher_is_better,
            benchmark.reference,
            benchmark.common,
            tuple(_cell(benchmark, cell, at) for cell in ready),
            len(cells) - len(ready),
            tuple(empty),
        )
        for benchmark in benchmarks
    ]


def _cell(benchmark: Benchmark, cell: Cell, at: Mapping[str, int]) -> SweepCell:
    hashes = tuple(plan.hash for plan in cell.controls)
    effects = _effects(benchmark, at[cell.plan.hash], [at[digest] for digest in hashes])
    return SweepCell(dict(cell.settings), cell.plan.hash, cell.experts, hashes, effects)


def _effects(benchmark: Benchmark, steered: int, controls: Sequence[int]) -> dict[str, SweepEffect]:
    sets = {lang: [lang] for lang in benchmark.common}
    if len(benchmark.common) > 1:
        sets[MEAN] = list(benchmark.common)
        if 0 < len(benchmark.others) < len(benchmark.common):
            sets[OTHERS] = list(benchmark.others)
    effects = {}
    for name, languages in sets.items():
        gain = benchmark.difference(steered, languages, benchmark.score_of)
        before = benchmark.mean(0, languages, benchmark.score_of)
        if gain is None or before is None:
            continue
        changes = benchmark.changes(steered, languages, benchmark.score_of)
        exact = None if changes is None else exact_test(changes)
        means = [benchmark.mean(run, languages, benchmark.score_of) for run in controls]
        known = [mean.value for mean in means if mean is not None]
        effects[name] = SweepEffect(
            before.value,
            gain,
            None if exact is None else exact.p,
            math.fsum(known) / len(known) - before.value if known else None,
            benchmark.gain_over(controls, steered, languages),
        )
    return effects
