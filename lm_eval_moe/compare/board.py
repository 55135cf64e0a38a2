"""The leaderboard: every run's values, and how they differ from its baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lm_eval_moe.compare.cells import BoardCell, cells_of
from lm_eval_moe.compare.columns import Plan, plans
from lm_eval_moe.compare.comparable import baselines_of, check_setups
from lm_eval_moe.compare.control import ControlGains, control_gains
from lm_eval_moe.compare.settings import BoardSettings
from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.long_lists import Note
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.results import LabelledRun, Metric, Run, arrange, read_runs
from lm_eval_moe.results.labels import shared_sentence, unsaid
from lm_eval_moe.results.marks import Mark
from lm_eval_moe.routing_fields.divergence import DIVERGENCE

__all__ = ["Board", "Head", "RunRow", "Section", "build_board"]


@dataclass(frozen=True)
class Head:
    """A column's header.

    Attributes:
        title: What it says.
        languages: The languages that are averaged.
        metric: Of its values; None for divergence.
        higher_is_better: Its direction.
        kind: ``average`` columns are each tested alone, ``value`` columns corrected for each other.
    """

    title: str
    languages: tuple[str, ...]
    metric: Metric | None
    higher_is_better: bool
    kind: Literal["average", "value", "divergence"]


@dataclass(frozen=True)
class RunRow:
    """A run.

    Attributes:
        label: What it is called.
        detail: What neither its label nor `Board.shared` says of its model and steering.
        model: Its model.
        steering: The name of its steering; empty if unsteered.
        steering_hash: Its hash.
        baseline: The label of the run that it is compared with; None if it is one itself.
        cells: One a column.
        control: Its gains over random controls.
    """

    label: str
    detail: str
    model: str
    steering: str
    steering_hash: str
    baseline: str | None
    cells: tuple[BoardCell, ...]
    control: ControlGains | None


@dataclass(frozen=True)
class Section:
    """One table."""

    title: str
    heads: tuple[Head, ...]
    rows: tuple[RunRow, ...]
    notes: tuple[Note, ...]

    @property
    def marks(self) -> tuple[Mark, ...]:
        """All marks of its values and changes."""
        cells = [cell for row in self.rows for cell in row.cells]
        return tuple(
            dict.fromkeys(mark for cell in cells for mark in (*cell.marks, *(cell.change.marks if cell.change else ())))
        )

    @property
    def has_control(self) -> bool:
        """Whether a run carries its gain over random controls."""
        return any(row.control for row in self.rows)


@dataclass(frozen=True)
class Board:
    """All tables, and what has to be known to read them.

    Attributes:
        sections: The tables.
        shared: A sentence on what all runs share; empty where their labels say it.
        notes: What was said on the way.
        settings: What was asked for.
    """

    sections: tuple[Section, ...]
    shared: str
    notes: tuple[str, ...]
    settings: BoardSettings


def build_board(
    labelled: Sequence[LabelledRun],
    settings: BoardSettings,
    *,
    registry: PairingRegistry | None = None,
    notes: Sequence[str] = (),
) -> Board:
    """Compute the leaderboard of runs.

    Args:
        labelled: The runs.
        settings: What to show.
        registry: What is known of tasks' languages.
        notes: What was said on the way here.

    Raises:
        UserError: The runs are not comparable, or a name in the settings is unknown.
    """
    if not labelled:
        raise UserError("there is no run to show", fix="give results files or folders")
    runs = read_runs(labelled, registry)
    baselines = baselines_of(runs, settings.baseline)
    setup_notes = check_setups(runs, baselines, allow=settings.allow_mismatch)
    benchmarks, left_out = arrange(runs, registry=registry, metric=settings.metric)
    layout, further = plans(runs, benchmarks, left_out, settings.columns, settings.reference)
    if not layout:
        raise UserError("there is nothing to show: no task has a score", fix="; ".join(further) or "give other results")
    sections = [_section(plan, runs, settings) for plan in layout]
    run_numbers = {number for plan in layout for number in plan.runs}
    further += [
        f"{run.label} stands in no table: none of its tasks has a score that could be shown"
        for number, run in enumerate(runs)
        if number not in run_numbers
    ]
    _check_sort(sections, settings.sort)
    return Board(
        tuple(_sorted(section, settings.sort) for section in sections),
        shared_sentence(runs),
        (*notes, *setup_notes, *further),
        settings,
    )


def _section(plan: Plan, runs: Sequence[Run], settings: BoardSettings) -> Section:
    members = [runs[number] for number in plan.runs]
    notes = list(plan.notes)
    if settings.baseline is None or settings.baseline in [run.label for run in members]:
        baselines = baselines_of(members, settings.baseline)
    else:
        baselines = [None] * len(members)
        notes.append(f"The baseline {settings.baseline} has nothing in this table: no changes are shown.")
    rows = []
    for place, (run, to) in enumerate(zip(members, baselines, strict=True)):
        rows.append(
            RunRow(
                label=run.label,
                detail=unsaid(run, runs),
                model=run.model,
                steering=(run.steering.name or "steering") if run.steering else "",
                steering_hash=run.steering_hash or "",
                baseline=None if to is None else members[to].label,
                cells=cells_of(plan, place, to, settings.alpha),
                control=control_gains(run, plan.benchmark) if plan.benchmark else None,
            )
        )
    alone = [
        f"{row.label} has nothing in common with its baseline {row.baseline}: no changes are shown."
        for row in rows
        if row.baseline is not None and all(cell.change is None for cell in row.cells)
    ]
    return Section(plan.title, _heads(plan), tuple(rows), (*notes, *alone))


def _heads(plan: Plan) -> tuple[Head, ...]:
    """Return the headers: averages, divergence, then the columns that are tested together."""
    heads = [
        Head(
            column.title,
            column.languages,
            column.benchmark.metric,
            column.benchmark.higher_is_better,
            "value" if column.tested_together else "average",
        )
        for column in plan.columns
    ]
    if plan.divergence:
        divergence = Head(DIVERGENCE.title, plan.divergence, None, False, "divergence")
        heads.insert(plan.averages, divergence)
    return tuple(heads)


def _check_sort(sections: Sequence[Section], by: str) -> None:
    titles = dict.fromkeys(head.title for section in sections for head in section.heads)
    if by not in titles and by not in ("given", "label", "average"):
        raise UserError(
            f"there is no column {by!r}{did_you_mean(by, titles)}",
            fix=f"choose among given, label, {', '.join(titles)}",
            where="--sort",
        )


def _sorted(section: Section, by: str) -> Section:
    """Order rows by a column, best first, and equal ones as given.

    A value over fewer languages than the column has is no rank among the others: such rows come after them, and those
    without a value last.
    """
    if by == "given":
        return section
    if by == "label":
        return replace(section, rows=tuple(sorted(section.rows, key=lambda row: row.label)))
    place = next((number for number, head in enumerate(section.heads) if head.title == by), 0)
    higher = section.heads[place].higher_is_better

    def key(row: RunRow) -> tuple[bool, bool, float]:
        estimate = row.cells[place].estimate
        fewer = len(row.cells[place].languages) < len(section.heads[place].languages)
        return estimate is None, fewer, 0.0 if estimate is None else (-estimate.value if higher else estimate.value)

    return replace(section, rows=tuple(sorted(section.rows, key=key)))
