"""A row of the leaderboard: a run's values, how they differ from its baseline's, and what has to be known of both."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lm_eval_moe.compare.columns import BoardColumn, Plan
from lm_eval_moe.results import Benchmark
from lm_eval_moe.results.benchmarks import ScoreGetter
from lm_eval_moe.results.marks import Mark
from lm_eval_moe.results.values import Average
from lm_eval_moe.statistics import Judgement, corrected

__all__ = ["BoardCell", "Change", "cells_of"]


@dataclass(frozen=True)
class Change(Judgement):
    """A value's difference to the baseline's, corrected over the columns that are tested together.

    Attributes:
        better: Whether it is an improvement; None if equal.
        languages: The languages that it is over: those of which both runs have a value.
        marks: What has to be known of the baseline's value, and where it is over fewer languages than the run's own.
    """

    better: bool | None
    languages: tuple[str, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class BoardCell:
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


def cells_of(plan: Plan, place: int, to: int | None, alpha: float) -> tuple[BoardCell, ...]:
    """Return a row's cells.

    Args:
        plan: The table.
        place: The run's number in it.
        to: The baseline's; None without one.
        alpha: Level of the tests; intervals have the level ``1 - alpha``.
    """
    cells = [_value(column, place, to, alpha) for column in plan.columns]
    together = {
        number: change
        for number, (column, cell) in enumerate(zip(plan.columns, cells, strict=True))
        if column.tested_together and (change := cell.change) is not None
    }
    for number, change in zip(together, corrected(list(together.values())), strict=True):
        cells[number] = replace(cells[number], change=change)
    if plan.divergence:
        assert plan.benchmark is not None
        cells.insert(plan.averages, _divergence(plan.benchmark, plan.divergence, place, to, alpha))
    return tuple(cells)


def _value(column: BoardColumn, place: int, to: int | None, alpha: float) -> BoardCell:
    benchmark, languages = column.benchmark, column.languages
    cell = _without_marks(benchmark, benchmark.score_of, languages, place, to, alpha, higher=benchmark.higher_is_better)
    return _marked(cell, column.title, column.benchmark, len(languages), place, to)


def _divergence(
    benchmark: Benchmark, languages: tuple[str, ...], place: int, to: int | None, alpha: float
) -> BoardCell:
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
    of: ScoreGetter,
    languages: tuple[str, ...],
    place: int,
    to: int | None,
    alpha: float,
    *,
    higher: bool,
) -> BoardCell:
    run_languages = benchmark.having(place, languages, of)
    if not run_languages:
        return BoardCell(None, None)
    cell = BoardCell(benchmark.mean(place, run_languages, of), None, run_languages)
    shared = () if to is None else benchmark.shared(place, languages, of, to=to)
    judgement = benchmark.judgement(place, shared, of, to=to, alpha=alpha) if to is not None and shared else None
    if judgement is None:
        return cell
    value = judgement.difference.value
    better = None if value == 0 else (value > 0) == higher
    return replace(cell, change=Change(**vars(judgement), better=better, languages=shared, marks=()))


def _marked(
    cell: BoardCell,
    title: str,
    benchmark: Benchmark,
    languages: int,
    place: int,
    to: int | None,
    *,
    divergence: bool = False,
) -> BoardCell:
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
