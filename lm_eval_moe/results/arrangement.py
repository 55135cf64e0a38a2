"""Arrange the runs' tasks by benchmark and language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.pairing import PairingRegistry, TaskPairing
from lm_eval_moe.results.benchmarks import Benchmark, LanguageResult
from lm_eval_moe.results.run import Run, default_registry
from lm_eval_moe.results.values import Metric
from lm_eval_moe.statistics import Estimate

__all__ = ["LeftOut", "arrange"]


@dataclass(frozen=True)
class LeftOut:
    """A task that stands in no benchmark's table, and why."""

    task: str
    reason: str
    values: tuple[tuple[Metric, Estimate] | None, ...]  # one a run

    @property
    def metric(self) -> Metric | None:
        """Its metric in the first run that has one."""
        return next((value[0] for value in self.values if value is not None), None)


def arrange(
    runs: Sequence[Run], *, registry: PairingRegistry | None = None, metric: str | None = None
) -> tuple[tuple[Benchmark, ...], tuple[LeftOut, ...]]:
    """Sort all tasks of all runs into benchmarks, and list those that fit in none.

    All benchmarks have their languages in one order: the reference first, then from the best score of the baseline to
    its worst in the first benchmark that has the language.

    A task needs a language and the metric that is the main one of its benchmark. What a run does not say of a task (a
    run of another model type knows no languages) is taken from the other runs, then from the task's name.

    Args:
        runs: The first is the baseline.
        registry: What is known of tasks' languages; by default of lm-eval's own.
        metric: Look at this metric (``acc_norm``, or with its filter ``exact_match,flexible-extract``), not at the
            main one.

    Raises:
        UserError: No task has the metric.
    """
    registry = registry or default_registry()
    if metric is not None:
        _check_metric(runs, metric)
    reference = next((run.routing.reference for run in runs if run.routing.reference), None)
    tasks = list(dict.fromkeys(task for run in runs for task in run.tasks))
    homes: dict[str, dict[str, str]] = {}  # benchmark -> language -> task
    left_out: dict[str, str] = {}
    pairings = {}
    metrics: dict[str, Metric] = {}
    for task in tasks:
        # A run that says the language itself goes before one where it is known from the task's name only.
        saying = sorted((run for run in runs if task in run.table), key=lambda run: task not in run.routing.tasks)
        pairing, problem = _pairing(task, saying, registry)
        task_metric = next((main for run in runs if (main := _metric_of(run, task, metric))), None)
        if task_metric is None:
            left_out[task] = _without_metric(task, saying, metric)
        elif pairing is None:
            left_out[task] = problem
        elif metrics.setdefault(pairing.benchmark, task_metric) != task_metric:
            left_out[task] = (
                f"its main metric is not {metrics[pairing.benchmark].key}, which the rest of {pairing.benchmark} has"
            )
        elif pairing.language in (home := homes.setdefault(pairing.benchmark, {})):
            left_out[task] = f"{home[pairing.language]} is already {pairing.benchmark} in {pairing.language}"
        else:
            home[pairing.language] = task
            pairings[task] = pairing
    benchmarks = []
    places: dict[str, int] = {}  # of languages, for all tables of an output alike
    for name, home in homes.items():
        main_metric = metrics[name]
        cells = [
            {
                lang: cell
                for lang, task in home.items()
                if (cell := LanguageResult.of(run, task, main_metric, pairings[task]))
            }
            for run in runs
        ]
        task, first = next((task, run) for task in home.values() for run in runs if task in run.table)
        higher = first.higher_is_better(task, main_metric)
        for lang in _ordered(home, cells, higher):
            places.setdefault(lang, len(places))
        languages = tuple(sorted(home, key=lambda lang: (lang != reference, places[lang])))
        benchmarks.append(
            Benchmark(name, main_metric, higher, reference, tuple(runs), languages, tuple(cells), dict(home))
        )
    plain = tuple(
        LeftOut(task, reason, tuple(_plain(run, task, metric) for run in runs)) for task, reason in left_out.items()
    )
    return tuple(benchmarks), plain


def _without_metric(task: str, runs: Sequence[Run], metric: str | None) -> str:
    if all(run.is_unscored(task) for run in runs):
        return "it was run with --predict_only: lm-eval's bypass of 999 is not a score"
    return f"it has no {metric}" if metric else "it has no metric with a number"


def _metric_of(run: Run, task: str, name: str | None) -> Metric | None:
    if name is None:
        return run.main_metric(task)
    return next((candidate for candidate in run.metrics(task) if name in (candidate.name, candidate.key)), None)


def _check_metric(runs: Sequence[Run], name: str) -> None:
    names = dict.fromkeys(
        text for run in runs for task in run.tasks for option in run.metrics(task) for text in (option.name, option.key)
    )
    if name not in names:
        raise UserError(
            f"no task has the metric {name!r}{did_you_mean(name, names)}",
            fix=f"the metrics are {', '.join(names)}",
            where="--metric",
        )


def _pairing(task: str, runs: Sequence[Run], registry: PairingRegistry) -> tuple[TaskPairing | None, str]:
    """Return the first run's pairing that is known, or why there is none."""
    problem = "its language is not known"
    for run in runs:
        try:
            pairing = run.pairing(task, registry)
        except UserError as error:  # results that are there can be shown, whatever the task is called
            problem = error.problem
            continue
        if pairing is not None:
            return pairing, ""
    return None, problem


def _ordered(languages: Iterable[str], cells: Sequence[dict[str, LanguageResult]], higher: bool) -> list[str]:
    """Return languages from the baseline's best score to its worst, then those that it lacks."""

    def place(lang: str) -> tuple[bool, float, str]:
        cell = cells[0].get(lang)
        value = cell.score.estimate.value if cell else 0.0
        return cell is None, -value if higher else value, lang

    return sorted(languages, key=place)


def _plain(run: Run, task: str, metric: str | None) -> tuple[Metric, Estimate] | None:
    main_metric = _metric_of(run, task, metric)
    score = run.score(task, main_metric) if main_metric else None
    return (main_metric, score.estimate) if main_metric and score else None
