"""The baseline's score against its middle-layer divergence, a point a language."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from lm_eval_moe.analysis import AnalysisInputs, NotPossible
from lm_eval_moe.analysis.divergence import DivergenceCurves
from lm_eval_moe.drawing.canvas import drawing, short
from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.multilingual.languages import by_tier
from lm_eval_moe.number_text import Scale, p_text, signed
from lm_eval_moe.report.figures._axes import canvas, colour_key, name_points
from lm_eval_moe.report.figures._base import BENCHMARK, BenchmarkSubject, ReportFigure
from lm_eval_moe.report.figures._tiers import MANY, tier_colour, tier_names
from lm_eval_moe.report.wording import sentence_case
from lm_eval_moe.results import Benchmark
from lm_eval_moe.statistics import ALPHA, LEAST_POINTS, Estimate, correlation, is_beyond_chance, score_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["alignment_figure"]

_MANY_POINTS = (
    " Colours are resource tiers. Named are the points farthest from the middle, and others where there is room."
)


@dataclass(frozen=True)
class _Point:
    language: str
    divergence: Estimate
    score: Estimate
    compared: int  # items of the divergence; 0: not known
    items: int  # of the score


@BENCHMARK.figure("accuracy_by_divergence", order=60, title="Scores against divergence")
def alignment_figure(subject: BenchmarkSubject) -> ReportFigure | None:
    """Draw score against divergence, from the results or, where they have none, from profiles."""
    benchmark, profile_sets = subject.benchmark, subject.profile_sets
    points, source = _of_results(benchmark), f"in {benchmark.runs[0].label}"
    for inputs in profile_sets:
        if not points:
            points, source = _of_profiles(benchmark, inputs), "by the profiles"
    if len(points) < 2:
        return None
    says, key = _correlation(benchmark, points), benchmark.metric.key
    reference = benchmark.reference or profile_sets[0].reference
    return ReportFigure(
        f"{sentence_case(benchmark.metric.title)} against divergence",
        f"One point per language {source}, with 95 % intervals.{_MANY_POINTS if len(points) > MANY else ''}",
        f"Scatter plot of {benchmark.metric.title} against middle-layer divergence, a point per language. {says}",
        ("benchmark", "language", "divergence", "divergence_stderr", key, f"{key}_stderr"),
        [
            (benchmark.name, point.language, *(x for e in (point.divergence, point.score) for x in (e.value, e.stderr)))
            for point in points
        ],
        lambda colours: _draw(benchmark, points, reference, colours),
        finding=says,
        tabulated=False,  # both are in the table of scores
        choices=tuple(point.language for point in points) if len(points) > MANY else (),
    )


def _of_results(benchmark: Benchmark) -> list[_Point]:
    return [
        _Point(lang, middle.estimate, cell.score.estimate, len(middle.items or ()), cell.documents)
        for lang in benchmark.languages
        if (cell := benchmark.cells[0].get(lang)) is not None and (middle := cell.divergence.middle) is not None
    ]


def _of_profiles(benchmark: Benchmark, inputs: AnalysisInputs) -> list[_Point]:
    try:
        curves = inputs.result(DivergenceCurves).curves
    except NotPossible:
        return []
    middles = {curve.language: curve.bands["middle"] for curve in curves if "middle" in curve.bands}
    return [
        _Point(lang, Estimate(middles[lang].mean, middles[lang].stderr), cell.score.estimate, 0, cell.documents)
        for lang in benchmark.languages
        if (cell := benchmark.cells[0].get(lang)) is not None and lang in middles and not math.isnan(middles[lang].mean)
    ]


def _correlation(benchmark: Benchmark, points: Sequence[_Point]) -> str:
    """Say how the two go together, and whether so few languages show it."""
    if len(points) < LEAST_POINTS:
        return f"Too few languages ({len(points)}) for a correlation."
    result = correlation([point.divergence.value for point in points], [point.score.value for point in points])
    if result is None:
        return "The values do not vary: there is no correlation to speak of."
    text = f"Pearson r = {signed(result.r, 2)} over n = {result.n} languages"
    if result.interval is not None:
        text += f", 95 % interval {signed(result.interval[0], 2)} to {signed(result.interval[1], 2)} (Fisher's z)"
    text += f", {p_text(result.p)} by random pairings"
    if not is_beyond_chance(result.p, ALPHA):
        return (
            f"{text}. That is within chance: these languages do not show whether the two go together. It is no "
            "evidence that they do not."
        )
    return (
        f"{text}. Among these languages {benchmark.metric.title} is {'higher' if result.r < 0 else 'lower'} where "
        f"routing is closer to {benchmark.reference or 'the reference'}. This is an association over {result.n} "
        "languages that were not drawn at random; the amount of training text may drive both."
    )


def _draw(benchmark: Benchmark, points: Sequence[_Point], reference: str, colours: Colours) -> Figure:
    scale, many = Scale(benchmark.metric), len(points) > MANY
    tiers = by_tier(point.language for point in points)
    tier_of = {language: tier for tier, members in tiers.items() for language in members}
    with drawing(colours):
        figure, axes = canvas(height=4.4 if many else 3.7, top=0.3 if many else 0.25)
        for number, point in enumerate(points):
            x, y = point.divergence, point.score
            line: dict[str, Any] = {"color": colours.muted, "linewidth": 0.8, "alpha": 0.25 if many else 0.6}
            ends = score_interval(y, point.items, share=benchmark.metric.is_share)
            if ends is not None:
                axes.plot([x.value, x.value], [end * scale.factor for end in ends], **line)
            across = score_interval(x, point.compared, share=True)
            if across is not None:
                axes.plot(across, [y.value * scale.factor] * 2, **line)
            axes.plot(
                x.value,
                y.value * scale.factor,
                "o",
                color=tier_colour(tier_of.get(point.language, ""), colours) if many else colours.run(0),
                markersize=5.5,
                markeredgewidth=0,
                gid=f"choice-{number}" if many else None,
                clip_on=False,
                zorder=3,
            )
        axes.margins(0.1)
        axes.set_xlim(max(axes.get_xlim()[0], 0.0), None)
        if scale.unit:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, 0), min(high, 102))
        farthest = sorted(points, key=lambda point: -_distance(point, points))
        labels = [(point.divergence.value, point.score.value * scale.factor, point.language) for point in farthest]
        name_points(axes, labels, colours, every=not many)
        if many:
            key = [(name, tier_colour(tier, colours)) for tier, name in tier_names(tiers).items()]
            colour_key(axes, key, colours, above=8)
        axes.set_xlabel(f"middle-layer divergence to {short(reference, 8)} (0 = same routing)")
        axes.set_ylabel(short(f"{benchmark.metric.title} ({scale.unit or 'no unit'})", 40))
        return figure


def _distance(point: _Point, points: Sequence[_Point]) -> float:
    """Return the square of how far a point is from the mean of all, in standard deviations of both axes."""
    places = [(other_point.divergence.value, other_point.score.value) for other_point in points]
    place = (point.divergence.value, point.score.value)
    return sum(
        ((value - fmean(values)) / (pstdev(values) or 1.0)) ** 2
        for value, values in zip(place, zip(*places, strict=True), strict=True)
    )
