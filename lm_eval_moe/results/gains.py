"""Every metric's gain of a steered run over its random controls: written beside the metric, and read again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.results.routing import GAIN_NUMBERS, KEY, Control, GroupRouting, RoutingObject
from lm_eval_moe.results.run import Run
from lm_eval_moe.results.values import GAIN_SUFFIX, LabelledRun, Metric, Score, is_number, number_of
from lm_eval_moe.statistics import ControlGain, gain_over_controls, gain_over_means, same_items

__all__ = ["add_gains", "reported_gain"]


def add_gains(
    results: dict[str, Any], controls: Sequence[Mapping[str, Any]], hashes: Sequence[str], registry: PairingRegistry
) -> None:
    """Add every metric's gain over the controls to a run's results, beside the metric and as ``routing.control``.

    Args:
        results: Of the steered run, with samples.
        controls: Of its controls, with samples.
        hashes: Of the controls' steering, whose seeds are 1, 2, ...
        registry: Knows how items pair across languages.
    """
    runs = [Run(LabelledRun(str(number), dict(run_results))) for number, run_results in enumerate((results, *controls))]
    tasks = {task: dict(_task_gains(task, runs)) for task in runs[0].tasks}
    groups = {group: dict(_group_gains(group, runs, registry)) for group in results.get("groups") or {}}
    for table, gains in (("results", tasks), ("results", groups), ("groups", groups)):
        for name, by_metric in gains.items():
            for metric, gain in by_metric.items():
                column, error = (f"{metric.name}{GAIN_SUFFIX}{end},{metric.filter}" for end in ("", "_stderr"))
                results[table][name][column] = gain.gain
                results[table][name][error] = "N/A" if gain.stderr is None else gain.stderr
    for name, by_metric in (tasks | groups).items():
        for metric in by_metric:
            better = results.setdefault("higher_is_better", {}).setdefault(name, {})
            better[metric.name + GAIN_SUFFIX] = runs[0].higher_is_better(name, metric)
    control = Control(
        kind="random",
        seeds=tuple(range(1, len(hashes) + 1)),
        hashes=tuple(hashes),
        level=0.95,
        tasks={name: _dump(by_metric) for name, by_metric in tasks.items()},
        groups={name: _dump(by_metric) for name, by_metric in groups.items()},
    )
    results[KEY] = replace(RoutingObject.of(results), control=control).to_dict()


def reported_gain(entry: Mapping[str, Any], *, higher_is_better: bool) -> ControlGain | None:
    """Read a gain as results or the table of a sweep hold it; None where there is none.

    What releases wrote that knew no interval of a new draw tells one: from the controls' means and the standard error.
    """
    per_control = [float(value) for value in entry.get("per_control") or () if is_number(value)]
    numbers: dict[str, Any] = {name: number_of(entry[name]) for name in GAIN_NUMBERS if name in entry}
    steered = numbers.get("steered")
    if steered is None or numbers.get("gain") is None or not per_control:
        return None
    gain = gain_over_means(steered, per_control, numbers.get("stderr"), higher_is_better=higher_is_better)
    return replace(gain, **numbers)


def _dump(gains: Mapping[Metric, ControlGain]) -> dict[str, Any]:
    return {metric.key: asdict(gain) for metric, gain in gains.items()}


def _task_gains(task: str, runs: Sequence[Run]) -> Iterator[tuple[Metric, ControlGain]]:
    for metric in runs[0].metrics(task):
        scores = [score for run in runs if (score := run.score(task, metric)) is not None]
        if len(scores) < len(runs):
            continue
        higher = runs[0].higher_is_better(task, metric)
        items = [score.items for score in scores if score.items and score.documents == scores[0].documents]
        if len(items) == len(scores):
            yield metric, gain_over_controls([items[0]], [[control] for control in items[1:]], higher_is_better=higher)
        else:  # no mean of items, such as a perplexity: the values tell the gain, but not its noise
            yield metric, _of_values([score.estimate.value for score in scores], higher)


def _group_gains(group: str, runs: Sequence[Run], registry: PairingRegistry) -> Iterator[tuple[Metric, ControlGain]]:
    members = list(runs[0].leaves(group)) or _averaged(group, runs[0])
    for metric in runs[0].metrics(group):
        values = [run.score(group, metric) for run in runs]
        if any(value is None for value in values):
            continue
        higher = runs[0].higher_is_better(group, metric)
        reported = [value.estimate.value for value in values if value is not None]
        languages = [_languages(run, members, metric, registry) for run in runs]
        complete_languages = [run_languages for run_languages in languages if run_languages]
        if len(complete_languages) == len(runs) and same_items(complete_languages):
            gain = gain_over_controls(complete_languages[0], complete_languages[1:], higher_is_better=higher)
            # A group that weights its members otherwise is not the mean that was compared here.
            if math.isclose(gain.steered, reported[0], rel_tol=1e-6, abs_tol=1e-9):
                yield metric, gain
                continue
        yield metric, _of_values(reported, higher)


def _languages(
    run: Run, members: Sequence[str], metric: Metric, registry: PairingRegistry
) -> list[dict[Any, float]] | None:
    by_item: list[dict[Any, float]] = []
    for task in members:
        score: Score | None = run.score(task, metric)
        if score is None or not score.items:
            return None
        # An item's translations are one cluster; where that is not known, every document is its own.
        pairing = run.pairing(task, registry)
        names = run.item_names(task, pairing) or {}
        home = pairing.benchmark if pairing and names else task
        by_item.append({(home, names.get(doc_id, doc_id)): value for doc_id, value in score.items.items()})
    return by_item or None


def _averaged(group: str, run: Run) -> list[str]:
    """Return the tasks of an average that is not a group of lm-eval's."""
    languages = run.routing.groups.get(group, GroupRouting()).languages
    return [task for tasks in languages.values() for task in tasks]


def _of_values(values: Sequence[float], higher_is_better: bool) -> ControlGain:
    return gain_over_means(values[0], values[1:], None, higher_is_better=higher_is_better)
