"""What a baseline tells about the tests to come: items, scores, and how alike two runs' answers are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lm_eval_moe.errors import UserError
from lm_eval_moe.gate.collect import Side, TaskPlace, collect, metric_of, task_places
from lm_eval_moe.gate.policy import Policy
from lm_eval_moe.gate.power import Planned
from lm_eval_moe.results import Metric
from lm_eval_moe.results.values import Score

__all__ = ["between_languages", "correlations_of_pair", "hypothetical", "planned_of"]


def planned_of(policy: Policy, baseline: Side, correlation: float) -> list[Planned]:
    """Return the scores that a policy judges against a baseline.

    Raises:
        UserError: There is none.
    """
    planned = []
    for place in task_places(baseline.runs, baseline.registry).values():
        score, metric = _score(policy, baseline, place)
        if score is None or metric is None:
            continue
        run = baseline.run_of(place.task)
        items = len(score.items) if score.items else run.documents(place.task) if run else 0
        if not items:
            continue
        values = list(score.items.values()) if score.items else []
        right_or_wrong = all(value in (0, 1) for value in values) if values else metric.is_share
        planned.append(
            Planned(
                benchmark=place.benchmark,
                language=place.language,
                items=items,
                score=score.estimate.value,
                is_share=metric.is_share,
                right_or_wrong=right_or_wrong,
                spread=float(np.std(values)) if values else (score.estimate.stderr or 0.0) * math.sqrt(items),
                shared=place.names is not None,
                correlation=correlation,
            )
        )
    if not planned:
        raise UserError(
            "the baseline has no score with a known number of items that the policy judges",
            fix="evaluate it with --log_samples, or list its benchmarks in the policy",
            where=baseline.label,
        )
    return planned


def hypothetical(items: int, score: float, languages: int, correlation: float) -> list[Planned]:
    """Return languages of right-or-wrong items that are all alike."""
    language = Planned(
        "planned", "1", items, score, True, True, math.sqrt(score * (1 - score)), shared=True, correlation=correlation
    )
    return [replace(language, language=str(number + 1)) for number in range(languages)]


def between_languages(policy: Policy, baseline: Side) -> float:
    """Return the mean correlation of an item's scores in two languages, at least 0.

    The differences between two runs correlate less than the scores do, since what makes an item hard is the same for
    both runs: taken for them, it is on the safe side.
    """
    by_benchmark: dict[str, list[Mapping[str, float]]] = {}
    for place in task_places(baseline.runs, baseline.registry).values():
        score, _ = _score(policy, baseline, place)
        if score is not None and score.items and place.names is not None and place.language is not None:
            values = {place.names[doc_id]: value for doc_id, value in score.items.items() if doc_id in place.names}
            by_benchmark.setdefault(place.benchmark, []).append(values)
    return _mean_correlation(by_benchmark.values())


def correlations_of_pair(policy: Policy, first: Side, second: Side) -> tuple[float, float]:
    """Return the correlation of two runs' scores of an item, and of their differences between two languages.

    Raises:
        UserError: They have no items in common, or all their scores are the same.
    """
    evidence, _ = collect(policy, first, second)
    covariance = spread = 0.0
    by_benchmark: dict[str, list[Mapping[str, float]]] = {}
    for entry in evidence:
        if entry.losses is None or entry.before is None or entry.after is None or entry.problem is not None:
            continue
        losses = np.array([loss for _, loss in entry.losses])
        variances = [_variance(score.value, score.stderr, entry.items) for score in (entry.before, entry.after)]
        covariance += (sum(variances) - float(losses.var())) / 2
        spread += math.sqrt(variances[0] * variances[1])
        if entry.named and entry.language is not None:
            by_benchmark.setdefault(entry.benchmark, []).append({str(name): loss for name, loss in entry.losses})
    if not spread or all(not any(losses.values()) for languages in by_benchmark.values() for losses in languages):
        problems = [entry.problem for entry in evidence if entry.problem]
        raise UserError(
            problems[0] if problems else "the two runs have the same score on every item: they say nothing about noise",
            fix="give a run of another version of the model over the same items, with samples",
            where="--pair",
        )
    return min(max(covariance / spread, 0.0), 1.0), _mean_correlation(by_benchmark.values())


def _score(policy: Policy, baseline: Side, place: TaskPlace) -> tuple[Score | None, Metric | None]:
    metric, run = metric_of(policy, place), baseline.run_of(place.task)
    return (run.score(place.task, metric) if metric and run else None), metric


def _variance(value: float, stderr: float | None, items: int) -> float:
    """Return the variance of a score's items; without a standard error, of right-or-wrong ones."""
    return stderr**2 * items if stderr is not None else max(value * (1 - value), 0.0)


def _mean_correlation(benchmarks: Iterable[Sequence[Mapping[str, float]]]) -> float:
    """Return the mean over all pairs of languages of one benchmark, at least 0."""
    pairs = [pair for languages in benchmarks for pair in itertools.combinations(languages, 2)]
    correlations = [value for pair in pairs if (value := _correlation(*pair)) is not None]
    return max(0.0, math.fsum(correlations) / len(correlations)) if correlations else 0.0


def _correlation(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    common: Sequence[str] = sorted(first.keys() & second.keys())
    a, b = (np.array([values[name] for name in common]) for values in (first, second))
    if len(common) < 3 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])
