"""Refusing runs that were set up differently, and saying what else differs."""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_moe.errors import UserError
from lm_eval_moe.results import Mismatch, Run, setup_differences
from lm_eval_moe.results.setup import unrecorded_choice

__all__ = ["check_setups"]

_SHOWN = 12


def check_setups(runs: Sequence[Run], baselines: Sequence[int | None], *, allow: bool) -> list[str]:
    """Compare the setups of runs that stand in one table; return what to know about them.

    Every run is compared with its baseline, and task by task with the first run that has the task.

    Raises:
        UserError: Task version, few-shot count, documents or prompts differ, and that is not allowed.
    """
    first_with: dict[str, int] = {}
    for number, run in enumerate(runs):
        for task in run.tasks:
            first_with.setdefault(task, number)
    serious: list[str] = []
    slight: list[str] = []
    for number, run in enumerate(runs):
        others: dict[int, list[str]] = {}
        for task in run.tasks:
            for other in {first_with[task], baselines[number]} - {None, number}:
                assert other is not None
                others.setdefault(other, []).append(task)
        for other, tasks in others.items():
            found = setup_differences(runs[other], run, tasks)
            serious += _sentences([each for each in found if each.serious], runs[other], run)
            slight += _sentences([each for each in found if not each.serious], runs[other], run)
    slight += [
        f"documents of {', '.join(chosen)}: {run.label} evaluated chosen ones (--samples) and does not say which; it "
        "is not known whether the other runs evaluated the same"
        for run in runs
        if len(runs) > 1 and (chosen := [task for task in run.tasks if unrecorded_choice(run, task)])
    ]
    serious, slight = list(dict.fromkeys(serious)), list(dict.fromkeys(slight))
    if serious and not allow:
        more = f"\n  and {len(serious) - _SHOWN} more" if len(serious) > _SHOWN else ""
        raise UserError(
            "the runs were set up differently, so their scores are not comparable:\n  "
            + "\n  ".join(serious[:_SHOWN])
            + more,
            fix="evaluate them alike, leave tasks or runs out (--tasks, --runs), or compare all the same with "
            "--allow-mismatch; the table then says so",
        )
    shown = [f"NOT COMPARABLE: {sentence}" for sentence in serious]
    shown += slight
    return shown if len(shown) <= _SHOWN else [*shown[:_SHOWN], f"and {len(shown) - _SHOWN} more differences in setup"]


def _sentences(mismatches: Sequence[Mismatch], first: Run, second: Run) -> list[str]:
    homes: dict[tuple[str, str, str], list[str]] = {}
    for each in mismatches:
        # Hashes differ by task; they say nothing to the reader, the tasks do.
        values = ("", "") if each.kind == "prompts" and " " not in each.first else (each.first, each.second)
        homes.setdefault((each.kind, *values), []).append(each.task)
    said = []
    for (kind, before, after), tasks in homes.items():
        named = [task for task in tasks if task]
        several = f" of {len(named)} tasks ({named[0]}, ...)" if len(named) > 1 else ""
        where = several or (f" of {named[0]}" if named else "")
        if before or after:
            said.append(f"{kind}{where}: {before} in {first.label}, {after} in {second.label}")
        else:
            said.append(f"{kind}{where}: {first.label} and {second.label} have others")
    return said
