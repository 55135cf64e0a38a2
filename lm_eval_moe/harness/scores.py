"""Metrics of ours in lm-eval's finished results: in its tables, groups and logs of samples.

They get there in the same way whatever the release of lm-eval: a task's mean with its standard error under the filter
`none`, a group's as lm-eval aggregates groups, and every document's own value in the log, once: in the rows of the
filter `none` where the task has it, else of its first filter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.metrics import aggregate_subtask_metrics, mean, mean_stderr, pooled_sample_stderr

from lm_eval_moe.harness.evaluating import HarnessRun

__all__ = ["add_metrics"]

_FILTER = "none"
_UNKNOWN = "N/A"  # lm-eval's word for a standard error that there is not


def add_metrics(
    results: dict[str, Any],
    run: HarnessRun,
    better: Mapping[str, bool | None],
    documents: Mapping[str, Sequence[Mapping[str, float]]],
) -> list[str]:
    """Add metrics to the results of an evaluation, once per task however many filters it has.

    Args:
        results: lm-eval's; changed in place.
        run: The evaluation.
        better: Whether higher is better, by metric; None: neither way is.
        documents: By task: what each document has of the metrics, in the order in which lm-eval logs them.

    Returns:
        What could not be added, and why; empty if everything is there.
    """
    problems = []
    table, logs = results["results"], results.get("samples")
    for task, values in documents.items():
        if task not in table:
            problems.append(f"task {task}: it is not among lm-eval's results, which cover {', '.join(table)}")
            continue
        _count_documents(results, task, len(values))
        table[task].update(_task_scores(values, better, run.bootstrap_iters))
        if logs is not None and not _added_to_log(logs.get(task, []), values):
            problems.append(f"task {task}: its log does not have the {len(values)} documents that were evaluated")
    names = {id(task): name for name, task in run.tasks.items()}
    for group in run.groups:
        if group.has_aggregation and group.name in table:
            members = [table[names[id(task)]] for task in group.get_all_tasks() if names.get(id(task)) in table]
            by_size = group.aggregate_metric_list[0].weight_by_size
            for place in (table, results.get("groups", {})):
                _add_to_group(place.get(group.name, {}), members, better, by_size=by_size)
    _add_directions(results, run, better)
    return problems


def _count_documents(results: dict[str, Any], task: str, evaluated: int) -> None:
    """Say how many documents were evaluated where lm-eval, which counts scores, says fewer: with ``predict_only`` 0."""
    for place, key in ((results["n-samples"], "effective"), (results["results"], "sample_len")):
        place[task][key] = max(place[task].get(key, 0), evaluated)


def _task_scores(
    documents: Sequence[Mapping[str, float]], metrics: Mapping[str, Any], bootstrap_iters: int | None
) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    for metric in metrics:
        values = [document[metric] for document in documents if metric in document]
        if values:
            has_error = isinstance(bootstrap_iters, int) and bootstrap_iters > 0 and len(values) > 1
            scores[f"{metric},{_FILTER}"] = mean(values)
            scores[f"{metric}_stderr,{_FILTER}"] = mean_stderr(values) if has_error else _UNKNOWN
    return scores


def _added_to_log(log: Sequence[dict[str, Any]], documents: Sequence[Mapping[str, float]]) -> bool:
    filters = [entry["filter"] for entry in log]
    home = _FILTER if _FILTER in filters else next(iter(filters), None)
    entries = [entry for entry in log if entry["filter"] == home]
    if len(entries) != len(documents):
        return False
    for entry, values in zip(entries, documents, strict=True):
        entry["metrics"] = [*entry["metrics"], *values]
        entry.update(values)
    return True


def _add_to_group(
    scores: dict[str, Any], members: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any], *, by_size: bool
) -> None:
    counts = scores.pop("sample_count", {})  # stands last
    for metric in metrics:
        key, error_key = f"{metric},{_FILTER}", f"{metric}_stderr,{_FILTER}"
        having = [member for member in members if key in member]
        if having:
            sizes = [member["sample_len"] for member in having]
            scores[key] = aggregate_subtask_metrics([member[key] for member in having], sizes, by_size)
            scores[error_key] = _group_stderr([member[error_key] for member in having], sizes, by_size=by_size)
            counts = {**counts, key: sum(sizes)}
    if counts:
        scores["sample_count"] = counts


def _group_stderr(errors: Sequence[Any], sizes: list[int], *, by_size: bool) -> Any:
    if _UNKNOWN in errors:
        return _UNKNOWN
    if by_size:
        return pooled_sample_stderr(list(errors), sizes)
    # 0.5.0.dev1 pools here, too, which is not the error of a mean without weights.
    return math.sqrt(sum(error**2 for error in errors)) / len(errors)


def _add_directions(results: dict[str, Any], run: HarnessRun, better: Mapping[str, bool | None]) -> None:
    directions = results["higher_is_better"]
    for task in run.tasks:
        directions[task] = {**directions.get(task, {}), **better}
    for group in run.groups:
        if any(child in directions for child in group.child_names):
            directions[group.name] = {**directions.get(group.name, {}), **better}
    results["higher_is_better"] = dict(sorted(directions.items()))
