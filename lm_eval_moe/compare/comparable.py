"""Which run each run is compared with; refusing those that were set up differently, and saying what else differs."""

from __future__ import annotations

from collections.abc import Sequence

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.long_lists import counted
from lm_eval_moe.results import Mismatch, Run, setup_differences
from lm_eval_moe.results.setup import unrecorded_choice

__all__ = ["baselines_of", "check_setups"]

_SHOWN = 12


def baselines_of(runs: Sequence[Run], label: str | None) -> list[int | None]:
    """Return the number of every run's baseline, None for a run that is one itself.

    Args:
        runs: All runs.
        label: The label of the baseline of all. None: for a steered run the unsteered run of the same model, if there
            is exactly one; for all others the first run, which for want of another stands alone.

    Raises:
        UserError: No run has the label.
    """
    if label is not None:
        labels = [run.label for run in runs]
        if label not in labels:
            raise UserError(
                f"no run is called {label!r}{did_you_mean(label, labels)}",
                fix=f"the runs are {', '.join(map(repr, labels))}",
                where="--baseline",
            )
        baseline = labels.index(label)
        return [None if number == baseline else baseline for number in range(len(runs))]
    plain: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        if not run.steering:
            plain.setdefault(run.model, []).append(number)
    baselines: list[int | None] = []
    for number, run in enumerate(runs):
        unsteered_runs = plain.get(run.model, [])
        if run.steering and len(unsteered_runs) == 1:
            baselines.append(unsteered_runs[0])
        elif unsteered_runs == [number] and any(peer.steering and peer.model == run.model for peer in runs):
            baselines.append(None)
        else:
            baselines.append(None if number == 0 else 0)
    return baselines


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
        tasks_by_run: dict[int, list[str]] = {}
        for task in run.tasks:
            for reference_run in {first_with[task], baselines[number]} - {None, number}:
                assert reference_run is not None
                tasks_by_run.setdefault(reference_run, []).append(task)
        for reference_run, tasks in tasks_by_run.items():
            mismatches = setup_differences(runs[reference_run], run, tasks)
            serious += _sentences([mismatch for mismatch in mismatches if mismatch.serious], runs[reference_run], run)
            slight += _sentences(
                [mismatch for mismatch in mismatches if not mismatch.serious], runs[reference_run], run
            )
    slight += [
        f"documents of {counted(sampled_tasks, 'tasks')}: {run.label} evaluated chosen ones (--samples) and does not "
        "say which; it is not known whether the other runs evaluated the same"
        for run in runs
        if len(runs) > 1 and (sampled_tasks := [task for task in run.tasks if unrecorded_choice(run, task)])
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
    sentences = [f"NOT COMPARABLE: {sentence}" for sentence in serious]
    sentences += slight
    if len(sentences) <= _SHOWN:
        return sentences
    return [*sentences[:_SHOWN], f"and {len(sentences) - _SHOWN} more differences in setup"]


def _sentences(mismatches: Sequence[Mismatch], first: Run, second: Run) -> list[str]:
    homes: dict[tuple[str, str, str], list[str]] = {}
    for mismatch in mismatches:
        # Hashes differ by task; they say nothing to the reader, the tasks do.
        values = (
            ("", "") if mismatch.kind == "prompts" and " " not in mismatch.first else (mismatch.first, mismatch.second)
        )
        homes.setdefault((mismatch.kind, *values), []).append(mismatch.task)
    texts = []
    for (kind, before, after), tasks in homes.items():
        task_names = [task for task in tasks if task]
        several = f" of {len(task_names)} tasks ({task_names[0]}, ...)" if len(task_names) > 1 else ""
        where = several or (f" of {task_names[0]}" if task_names else "")
        if before or after:
            texts.append(f"{kind}{where}: {before} in {first.label}, {after} in {second.label}")
        else:
            texts.append(f"{kind}{where}: {first.label} and {second.label} have others")
    return texts
