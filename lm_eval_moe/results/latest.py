"""One run evaluated at several dates: the newest result of each task counts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lm_eval_moe.identity import ROW, Identity
from lm_eval_moe.results.labels import unique_labels
from lm_eval_moe.results.routing import KEY, RoutingObject, identity_of
from lm_eval_moe.results.run import LabelledRun, Run

__all__ = ["Superseded", "latest"]

_PER_TASK = ("results", "configs", "versions", "n-shot", "n-samples", "higher_is_better", "task_hashes")


@dataclass(frozen=True)
class Superseded:
    """An older result that a newer one of the same run took the place of.

    Attributes:
        label: The run.
        older: Date of the older file.
        newer: Date of the file that counts.
        tasks: The tasks in question.
        checked: Whether both say what they depend on, so that they are known to be of the same run.
    """

    label: str
    older: str
    newer: str
    tasks: tuple[str, ...]
    checked: bool = True


def latest(runs: Sequence[LabelledRun]) -> tuple[list[LabelledRun], list[Superseded]]:
    """Merge the dated files of one run, found in one directory: of every task the newest result counts.

    They are of one run if folder, model, its arguments and steering are the same, and nothing differs on which all
    results of a run depend (weights, prompts, few-shot count, generation arguments, the documents chosen: `ROW`). Tasks
    that were evaluated at different dates stand side by side in the merged run. Files that were given by name stay as
    they are.

    Returns:
        The runs in the order of their oldest files, relabelled, and what was superseded.
    """
    folders: dict[object, list[LabelledRun]] = defaultdict(list)
    for number, run in enumerate(runs):
        folders[number if run.named or not run.date else _folder_of(run)].append(run)
    merged, notes = [], []
    for several in folders.values():
        for row in _rows(sorted(several, key=lambda run: run.date, reverse=True)):
            run, superseded = _merged(row)
            merged.append(run)
            notes.append(superseded)
    relabelled = unique_labels([replace(run, label="") for run in merged])
    notices = [replace(notice, label=run.label) for run, of in zip(relabelled, notes, strict=True) for notice in of]
    return relabelled, notices


def _rows(newest_first: Sequence[LabelledRun]) -> list[list[LabelledRun]]:
    """Return the files of one folder and model by the run that they are of."""
    rows: list[list[LabelledRun]] = []
    for run in newest_first:
        row = next((row for row in rows if _goes_into(run, row)), None)
        if row is None:
            rows.append([run])
        else:
            row.append(run)
    return rows


def _goes_into(run: LabelledRun, row: Sequence[LabelledRun]) -> bool:
    """Whether a file is of the same run as the newer ones of a row.

    Where a task of it was evaluated again after its file or data had changed, its other tasks are of before that
    change: they do not stand beside the newer ones.
    """
    if not all(_are_one_run(run, newer) for newer in row):
        return False
    newest: dict[str, Mapping[str, Any]] = {}
    for newer in row:
        for task, parts in (identity_of(newer.results) or Identity()).tasks.items():
            newest.setdefault(task, parts)
    tasks = (identity_of(run.results) or Identity()).tasks
    remaining_tasks = tasks.keys() - {task for newer in row for task in newer.results["results"]}
    changed = [task for task in tasks.keys() & newest.keys() if tasks[task] != newest[task]]
    return not (remaining_tasks and changed)


def _are_one_run(older: LabelledRun, newer: LabelledRun) -> bool:
    before, now = identity_of(older.results), identity_of(newer.results)
    if before is not None and now is not None:
        return not before.mismatch(now, ROW)
    # Not ours, or of an early release: what lm-eval itself writes down has to do.
    if _recorded_setup(older.results) != _recorded_setup(newer.results):
        return False
    shared = older.results["results"].keys() & newer.results["results"].keys()
    return all(
        (older.results.get(table) or {}).get(task) == (newer.results.get(table) or {}).get(task)
        for table in ("n-shot", "n-samples")
        for task in shared
    )


def _recorded_setup(results: Mapping[str, Any]) -> tuple[object, ...]:
    config = results.get("config") or {}
    return (
        *(json.dumps(config.get(key), sort_keys=True, default=str) for key in ("limit", "samples", "gen_kwargs")),
        *(results.get(key) for key in ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn")),
    )


def _folder_of(run: LabelledRun) -> tuple[object, ...]:
    config = run.results.get("config") or {}
    return (
        run.source.parent.resolve() if run.source else Path(),
        run.stem,
        str(run.results.get("model_source") or config.get("model")),
        json.dumps(config.get("model_args"), sort_keys=True, default=str),
        Run(run).steering_hash,
    )


def _merged(newest_first: Sequence[LabelledRun]) -> tuple[LabelledRun, list[Superseded]]:
    newest = newest_first[0]
    if len(newest_first) == 1:
        return newest, []
    homes: dict[str, LabelledRun] = {}
    superseded = []
    for run in newest_first:
        again: dict[str, list[str]] = defaultdict(list)
        for task in run.results["results"]:
            if task in homes:
                again[homes[task].date].append(task)
            homes.setdefault(task, run)
        checked = None not in (identity_of(run.results), identity_of(newest.results))
        superseded += [Superseded("", run.date, newer, tuple(tasks), checked) for newer, tasks in again.items()]
    results: dict[str, Any] = dict(newest.results)
    for table in _PER_TASK:
        results[table] = {
            task: run.results[table][task] for task, run in homes.items() if task in (run.results.get(table) or {})
        }
    for table in ("groups", "group_subtasks"):
        results[table] = {
            name: value for run in reversed(newest_first) for name, value in (run.results.get(table) or {}).items()
        }
    routing = {id(run): content for run in newest_first if (content := RoutingObject.of(run.results)).is_said}
    if routing:
        results[KEY] = _merged_routing(
            list(routing.values()), {task: routing.get(id(run), RoutingObject()) for task, run in homes.items()}
        ).to_dict()
    logs = {task: run.logs[task] for task, run in homes.items() if task in run.logs}
    parts = {task: run.results for task, run in homes.items()}
    return replace(newest, results=results, logs=logs, parts=parts), superseded


def _merged_routing(newest_first: Sequence[RoutingObject], homes: Mapping[str, RoutingObject]) -> RoutingObject:
    """Return the newest routing object with what is said of every task where that task's result is from."""
    tasks = {task: content.tasks[task] for task, content in homes.items() if task in content.tasks}
    gains = {
        task: content.control.tasks[task]
        for task, content in homes.items()
        if content.control and task in content.control.tasks
    }
    control = next((content.control for content in newest_first if content.control), None)
    merged = replace(newest_first[0], tasks=tasks)
    return replace(merged, control=replace(control, tasks=gains)) if control and gains else merged
