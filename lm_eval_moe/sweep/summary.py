"""What the runs of a sweep add up to: every cell's gain over the baseline, beside that of its random controls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lm_eval_moe.results import Benchmark, LabelledRun, Run, arrange
from lm_eval_moe.results.sweeps import MEAN, OTHERS, EmptyCell, SweepBenchmark, SweepCell, SweepEffect
from lm_eval_moe.statistics import ClusteredValues, exact_test, max_sign_flip, same_items
from lm_eval_moe.sweep.cells import PlannedCell
from lm_eval_moe.sweep.store import BASELINE, RunStore

__all__ = ["summarise"]


def summarise(cells: Sequence[PlannedCell], empty: Sequence[EmptyCell], store: RunStore) -> list[SweepBenchmark]:
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
            tuple(_cells(benchmark, ready, at)),
            len(cells) - len(ready),
            tuple(empty),
        )
        for benchmark in benchmarks
    ]


def _cells(benchmark: Benchmark, cells: Sequence[PlannedCell], at: Mapping[str, int]) -> Iterator[SweepCell]:
    hashes = [tuple(plan.hash for plan in cell.controls) for cell in cells]
    runs = [
        (at[cell.plan.hash], [at[digest] for digest in control_hashes])
        for cell, control_hashes in zip(cells, hashes, strict=True)
    ]
    corrected = _corrected(benchmark, runs)
    for cell, control_hashes, (steered, controls), p in zip(cells, hashes, runs, corrected, strict=True):
        effects = {
            name: replace(effect, corrected_p=p.get(name))
            for name, effect in _effects(benchmark, steered, controls).items()
        }
        yield SweepCell(dict(cell.settings), cell.plan.hash, cell.experts, control_hashes, effects)


def _sets(benchmark: Benchmark) -> dict[str, list[str]]:
    """Return the languages that each effect is over."""
    sets = {lang: [lang] for lang in benchmark.common}
    if len(benchmark.common) > 1:
        sets[MEAN] = list(benchmark.common)
        if 0 < len(benchmark.others) < len(benchmark.common):
            sets[OTHERS] = list(benchmark.others)
    return sets


def _corrected(benchmark: Benchmark, runs: Sequence[tuple[int, Sequence[int]]]) -> list[dict[str, float]]:
    """Return each cell's p of its difference from the mean of its controls, corrected for all cells and effects."""
    base = benchmark.items(0, benchmark.common)
    tests: list[tuple[int, str]] = []
    sums = []
    for number, (steered, controls) in enumerate(runs):
        items = [benchmark.items(run, benchmark.common) for run in (steered, *controls)]
        by_run = [of for of in items if of is not None]
        if base is None or not controls or len(by_run) < len(items) or not same_items([base, *by_run]):
            continue
        # In the baseline's order, so that a cluster is the same item in all cells.
        values = np.array([[of[place][item] for place, lang in enumerate(base) for item in lang] for of in by_run])
        changes = replace(ClusteredValues.of([[*lang.items()] for lang in base]), values=values[0] - values[1:].mean(0))
        for name, languages in _sets(benchmark).items():
            shares = np.array([(lang in languages) / len(languages) for lang in benchmark.common])
            tests.append((number, name))
            sums.append(replace(changes, shares=shares).sums(changes.values))
    corrected: list[dict[str, float]] = [{} for _ in runs]
    for (number, name), p in zip(tests, max_sign_flip(np.array(sums)) if sums else [], strict=True):
        corrected[number][name] = p
    return corrected


def _effects(benchmark: Benchmark, steered: int, controls: Sequence[int]) -> dict[str, SweepEffect]:
    effects = {}
    for name, languages in _sets(benchmark).items():
        gain = benchmark.difference(steered, languages, benchmark.score_of)
        before = benchmark.mean(0, languages, benchmark.score_of)
        if gain is None or before is None:
            continue
        changes = benchmark.changes(steered, languages, benchmark.score_of)
        exact = None if changes is None else exact_test(changes)
        means = [benchmark.mean(run, languages, benchmark.score_of) for run in controls]
        control_values = [mean.value for mean in means if mean is not None]
        effects[name] = SweepEffect(
            before.value,
            gain,
            None if exact is None else exact.p,
            math.fsum(control_values) / len(control_values) - before.value if control_values else None,
            benchmark.gain_over(controls, steered, languages),
        )
    return effects
