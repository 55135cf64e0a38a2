"""A row of the leaderboard: a run's values, how they differ from its baseline's, and what has to be known of both."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lm_eval_moe.compare.columns import Column, Plan
from lm_eval_moe.results import Benchmark
from lm_eval_moe.results.benchmarks import Of
from lm_eval_moe.results.marks import Mark
from lm_eval_moe.results.values import Average
from lm_eval_moe.statistics import Difference, holm, normal_p

__all__ = ["Cell", "Change", "cells_of"]


@dataclass(frozen=True)
class Change:
    """A value's difference to the baseline's.

    Attributes:
        difference: Value, standard error, and whether items were paired.
        interval: Of the level ``1 - alpha``; None without a standard error, and where no item changed.
        p: Two-sided; None where nothing can be said.
        adjusted_p: After Holm's correction over the columns that are tested together; p itself for averages.
        method: How p was found.
        beyond: Whether it is beyond chance at alpha.
        better: Whether it is an improvement; None if equal.
        languages: The languages that it is over: those of which both runs have a value.
        marks: What has to be known of the baseline's value, and where it is over fewer languages than the run's own.
    """

    difference: Difference
    interval: tuple[float, float] | None
    p: float | None
    adjusted_p: float | None
    method: str
    beyond: bool
    better: bool | None
    languages: tuple[str, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Cell:
    """One value of a run.

    Attributes:
        estimate: The value; None where the run has none.
        change: Its difference to the baseline's; None without one.
        languages: The languages that it is over, those of the column that the run has.
        marks: What has to be known of it.
    """

    estimate: Average | None
    change: Change | None
    languages: tuple[str, ...] = ()
    marks: tuple[Mark, ...] = ()


def cells_of(plan: Plan, place: int, to: int | None, alpha: float) -> tuple[Cell, ...]:
    """Return a row's cells.

    Args:
        plan: The table.
        place: The run's number in it.
        to: The baseline's; None without one.
        alpha: Level of the tests; intervals have the level ``1 - alpha``.
    """
    cells = [_value(column, place, to, alpha) for column in plan.columns]
    together = [
        (number, change)
        for number, (column, cell) in enumerate(zip(plan.columns, cells, strict=True))
        if column.tested_together and (change := cell.change) is not None and change.p is not None
    ]
    adjusted = holm([change.p for _, change in together if change.p is not None])
    for (number, change), p in zip(together, adjusted, strict=True):
        cells[number] = replace(cells[number], change=replace(change, adjusted_p=p, beyond=p < alpha))
    if plan.divergence:
        assert plan.benchmark is not None
        cells.insert(plan.averages, _divergence(plan.benchmark, plan.divergence, place, to, alpha))
    return tuple(cells)


def _value(column: Column, place: int, to: int | None, alpha: float) -> Cell:
    benchmark, languages = column.benchmark, column.languages
    cell = _without_marks(benchmark, benchmark.score_of, languages, place, to, alpha, higher=benchmark.higher_is_better)
    return _marked(cell, column.title, column.benchmark, len(languages), place, to)


def _divergence(benchmark: Benchmark, languages: tuple[str, ...], place: int, to: int | None, alpha: float) -> Cell:
    """Return the cell of a run's divergence, compared with the baseline's only where both are the same quantity."""
    both = to is not None and benchmark.shared(place, languages, benchmark.divergence_of, to=to)
    reasons = benchmark.why_not_compared(place, languages, to=to) if to is not None and both else []
    compared = None if reasons else to
    cell = _without_marks(benchmark, benchmark.divergence_of, languages, place, compared, alpha, higher=False)
    cell = _marked(cell, "routing divergence", benchmark, len(languages), place, compared, divergence=True)
    label = benchmark.runs[place].label
    return replace(cell, marks=(*cell.marks, *(Mark("not compared", label, reason) for reason in reasons)))


def _without_marks(
    benchmark: Benchmark,
    of: Of,
    languages: tuple[str, ...],
    place: int,
    to: int | None,
    alpha: float,
    *,
    higher: bool,
) -> Cell:
    own = benchmark.having(place, languages, of)
    if not own:
        return Cell(None, None)
    cell = Cell(benchmark.mean(place, own, of), None, own)
    shared = () if to is None else benchmark.shared(place, languages, of, to=to)
    difference = benchmark.difference(place, shared, of, to=to) if to is not None and shared else None
    if to is None or difference is None:
        return cell
    test = benchmark.test(place, shared, of, to=to)
    p = test.p if test else normal_p(difference)
    return replace(
        cell,
        change=Change(
            difference=difference,
            # Where no item changed there is no spread to go by: an interval of no width would claim certainty.
            interval=None if difference.changed == 0 else difference.interval(1 - alpha),
            p=p,
            adjusted_p=p,
            method=test.method if test else "normal, unpaired",
            beyond=p is not None and p < alpha,
            better=None if difference.value == 0 else (difference.value > 0) == higher,
            languages=shared,
            marks=(),
        ),
    )


def _marked(
    cell: Cell,
    title: str,
    benchmark: Benchmark,
    languages: int,
    place: int,
    to: int | None,
    *,
    divergence: bool = False,
) -> Cell:
    """Add what has to be known of a value, and of the baseline's where a change stands beside it."""
    label = benchmark.runs[place].label
    marks = list(benchmark.marks(place, cell.languages, divergence=divergence))
    if 0 < len(cell.languages) < languages:
        marks.append(Mark("fewer languages", label, title, len(cell.languages), languages))
    change = cell.change
    if change is not None and to is not None:
        further = [
            m for m in benchmark.marks(to, change.languages, divergence=divergence) if m.kind != "other reference"
        ]
        if len(change.languages) < len(cell.languages):
            where = f"the change of {title}"
            further.append(Mark("fewer languages", label, where, len(change.languages), languages))
        change = replace(change, marks=tuple(further))
    return replace(cell, change=change, marks=tuple(marks))
