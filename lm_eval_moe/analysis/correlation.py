"""``correlation``: whether languages that are routed like the reference are answered better."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lm_eval_moe.analysis._base import Analysis, jsonable
from lm_eval_moe.analysis._inputs import AnalysisInputs, NotPossible
from lm_eval_moe.analysis.divergence import DivergenceCurves
from lm_eval_moe.shape import BANDS
from lm_eval_moe.statistics import LEAST_POINTS, Correlation, correlation
from lm_eval_moe.tables import TableValue, aligned

if TYPE_CHECKING:
    from typing import Self

    from lm_eval_moe.results import Run

__all__ = ["AccuracyCorrelation", "AccuracyCorrelations"]

_MEANING = (
    "the interval, by Fisher's z, says how far r might be off for other languages of this kind, not what one language "
    "would gain; with few languages one of them can decide it, and it treats languages of one family as independent"
)


@dataclass(frozen=True)
class AccuracyCorrelation:
    """Accuracy against divergence over languages.

    Attributes:
        accuracy_of: Benchmark and metric, or the table that the accuracies are from.
        divergence_of: Where the divergences are from: ``profiles`` or ``results``.
        band: The layers that they are the mean of.
        points: Accuracy and divergence by language.
        unmatched_languages: Those that only one of the two is known of, the reference left out.
        pearson: Pearson's r.
        spearman: Spearman's.
    """

    accuracy_of: str
    divergence_of: str
    band: str
    points: Mapping[str, tuple[float, float]]
    unmatched_languages: tuple[str, ...]
    pearson: Correlation
    spearman: Correlation


@dataclass(frozen=True)
class AccuracyCorrelations(Analysis):
    """Correlation of accuracy with the divergence to the reference across languages (arXiv 2510.04694).

    The reference itself is no point: its divergence is 0 by definition. There the accuracy goes with the divergence
    in the middle layers: r from -0.95 to -0.40. Early and late layers stand beside them for comparison.

    Attributes:
        correlations: One a benchmark, source of divergence and band.
        left_out: What could not be correlated, and why.
    """

    name = "correlation"
    rank = 70
    columns = (
        *("kind", "accuracy_of", "divergence_of", "band", "language", "accuracy", "divergence"),
        *("r", "low", "high", "p", "languages"),
    )
    correlations: tuple[AccuracyCorrelation, ...]
    left_out: Mapping[str, str]

    @classmethod
    def of(cls, inputs: AnalysisInputs) -> Self:
        """Correlate what there is."""
        if not inputs.runs and not inputs.accuracies:
            raise NotPossible("there are no accuracies", "give --results or --accuracy")
        accuracies: dict[str, Mapping[str, float]] = {}
        scores, unknown = _of_results(inputs.runs, _score)
        accuracies |= scores
        if inputs.accuracies:
            accuracies[inputs.accuracies_name] = inputs.accuracies
        correlations, left_out = [], {f"task {task}": "its language is not known" for task in unknown}
        for source, divergences in _divergences(inputs).items():
            for name, by_language in accuracies.items():
                reasons = {}
                for band in BANDS:
                    band_divergences = divergences(name, band)
                    outcome = _correlation((name, source, band), by_language, band_divergences, inputs)
                    if isinstance(outcome, AccuracyCorrelation):
                        correlations.append(outcome)
                    elif not (source == "results" and not band_divergences):  # results need not have divergences
                        reasons[band] = outcome
                same_reason = len(reasons) == len(BANDS) and len(set(reasons.values())) == 1
                for band, reason in reasons.items():
                    left_out[f"{name} with {source}" + ("" if same_reason else f", {band} layers")] = reason
        if not correlations:
            raise NotPossible(
                "; ".join(dict.fromkeys(left_out.values())) or "no task of the results is of a known language",
                f"give accuracies and divergences of at least {LEAST_POINTS} languages besides the reference",
            )
        return cls(tuple(correlations), left_out)

    def to_dict(self) -> dict[str, Any]:
        """Return the points and both correlations."""
        return jsonable(
            {
                "meaning": _MEANING,
                "correlations": [
                    {
                        **asdict(correlation),
                        "points": {
                            language: {"accuracy": accuracy, "divergence": divergence}
                            for language, (accuracy, divergence) in correlation.points.items()
                        },
                    }
                    for correlation in self.correlations
                ],
                "left_out": dict(self.left_out),
            }
        )

    def rows(self) -> Iterator[Sequence[TableValue]]:
        """Yield the points of every correlation, then both coefficients."""
        for relation in self.correlations:
            head = (relation.accuracy_of, relation.divergence_of, relation.band)
            for language, point in relation.points.items():
                yield ("point", *head, language, *point, None, None, None, None, None)
            for r in (relation.pearson, relation.spearman):
                low, high = r.interval or (None, None)
                yield (r.method, *head, None, None, None, r.r, low, high, r.p, r.n)

    def lines(self) -> list[str]:
        """Return a line a benchmark and source, for the middle layers."""
        rows = [["accuracy of", "divergence of", "languages", "Pearson", "p", "Spearman", "p"]]
        for relation in self.correlations:
            if relation.band == "middle":
                cells = [text for r in (relation.pearson, relation.spearman) for text in (_text(r), f"{r.p:.3g}")]
                without = f" (not {', '.join(relation.unmatched_languages)})" if relation.unmatched_languages else ""
                rows.append([relation.accuracy_of, relation.divergence_of, f"{len(relation.points)}{without}", *cells])
        lines = ["accuracy against divergence in the middle layers, over languages"]
        lines += aligned(rows, left=2) if len(rows) > 1 else ["  none"]
        return [*lines, *(f"  left out: {what}: {why}" for what, why in self.left_out.items())]


def _text(r: Correlation) -> str:
    return f"{r.r:+.2f}" + (f" [{r.interval[0]:+.2f}, {r.interval[1]:+.2f}]" if r.interval else "")


def _correlation(
    what: tuple[str, str, str],
    accuracies: Mapping[str, float],
    divergences: Mapping[str, float],
    inputs: AnalysisInputs,
) -> AccuracyCorrelation | str:
    points = {
        language: (accuracies[language], divergences[language]) for language in accuracies if language in divergences
    }
    if len(points) < LEAST_POINTS:
        there = f"{len(points)} languages ({', '.join(points)})" if points else "no language"
        return f"{there} besides the reference with both an accuracy and a divergence, at least {LEAST_POINTS} needed"
    accuracy, divergence = zip(*points.values(), strict=True)
    settings = inputs.settings
    options: dict[str, Any] = {"resamples": settings.resamples, "seed": settings.seed}
    linear = correlation(divergence, accuracy, "pearson", **options)
    ranked = correlation(divergence, accuracy, "spearman", **options)
    if linear is None or ranked is None:
        return "all languages have the same accuracy, or the same divergence"
    unmatched = sorted((set(accuracies) ^ set(divergences)) - {inputs.reference})
    return AccuracyCorrelation(*what, points, tuple(unmatched), linear, ranked)


def _divergences(inputs: AnalysisInputs) -> dict[str, Callable[[str, str], Mapping[str, float]]]:
    """Return functions from a benchmark and a band to divergences by language, by where they are from."""
    from_results = {band: _of_results(inputs.runs, partial(_run_divergence, band))[0] for band in BANDS}
    sources: dict[str, Callable[[str, str], Mapping[str, float]]] = {}
    if len(inputs.languages) > 1:
        curves = inputs.result(DivergenceCurves).curves
        levels = {curve.level for curve in curves}
        # A divergence item by item and one of pooled counts are different quantities.
        used = [curve for curve in curves if len(levels) == 1 or curve.level == "items"]
        means = {
            band: {
                curve.language: curve.bands[band].mean
                for curve in used
                if band in curve.bands and not math.isnan(curve.bands[band].mean)
            }
            for band in BANDS
        }
        sources["profiles"] = lambda name, band: means[band]
    sources["results"] = lambda name, band: from_results[band].get(name, {})
    return sources


def _of_results(
    runs: Sequence[Run], value: Callable[[Run, str], float | None]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Return a value of every benchmark and language, and the tasks of an unknown language.

    The value is the mean over the tasks, weighted by their documents.
    """
    from lm_eval_moe.pairing import PairingRegistry

    registry = PairingRegistry.default() if runs else PairingRegistry(())
    unknown = []
    sums: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for task in run.tasks:
            pairing, metric = run.pairing(task, registry), run.main_metric(task)
            if pairing is None:
                unknown.append(task)
            if pairing is None or metric is None or pairing.language == run.routing.reference:
                continue
            number = value(run, task)
            if number is not None:
                name = f"{pairing.benchmark} {metric.key}"
                sums[name][pairing.language].append((number, max(run.documents(task), 1)))
    means = {
        name: {
            language: sum(number * weight for number, weight in parts) / sum(weight for _, weight in parts)
            for language, parts in by_language.items()
        }
        for name, by_language in sums.items()
    }
    return means, unknown


def _score(run: Run, task: str) -> float | None:
    metric = run.main_metric(task)
    score = run.score(task, metric) if metric else None
    return score.estimate.value if score else None


def _run_divergence(band: str, run: Run, task: str) -> float | None:
    divergence = run.divergence(task)
    if band == "middle" and divergence.middle is not None:
        return divergence.middle.estimate.value
    if divergence.curve is None:
        return None
    values = [divergence.curve[run.layers.index(layer)] for layer in run.band(band)]
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
