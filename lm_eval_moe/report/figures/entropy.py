"""Entropy of the routing over the layers."""

from __future__ import annotations

import math

from lm_eval_moe.analysis.entropy import EntropyCurves
from lm_eval_moe.long_lists import LongList, counted, folded
from lm_eval_moe.report.figures._base import BENCHMARK, PROFILES, BenchmarkSubject, ProfilesSubject, ReportFigure
from lm_eval_moe.report.figures._curve_figure import curve_figure
from lm_eval_moe.report.figures._curves import of_profiles, of_results
from lm_eval_moe.report.wording import listing, plural

__all__ = ["entropy_of_profiles", "entropy_of_results"]

_LABEL = "entropy (1 = all experts alike)"
_TITLE = "Entropy through the layers"
_WHAT = "entropy of expert importance over ln(experts), mean over items"


@BENCHMARK.figure("entropy", order=50, title=_TITLE)
def entropy_of_results(subject: BenchmarkSubject) -> ReportFigure | None:
    """Draw the baseline's curves of a benchmark, which have no intervals, unless profiles give them with some."""
    if subject.covered:
        return None
    benchmark, run = subject.benchmark, subject.benchmark.runs[0]
    curves = of_results(
        benchmark,
        benchmark.cells[0],
        lambda cell: run.task_routing(cell.task).curves.get("entropy"),
        _LABEL,
        from_zero=False,
    )
    if curves is None:
        return None
    means = {
        band: [point[0] for line in curves.lines for layer, point in line.points.items() if layer in layers]
        for band, layers in curves.bands.items()
    }
    texts = [f"{math.fsum(values) / len(values):.3f} ({band})" for band, values in means.items() if values]
    return curve_figure(
        curves,
        _TITLE,
        f"Routing in {run.label}: {_WHAT}.",
        "the routing entropy",
        within=f" in {run.label}",
        finding=f"Mean entropy over {plural(len(curves.lines), 'language')}: {listing(texts)}.",
    )


@PROFILES.figure("entropy", order=20, title=_TITLE)
def entropy_of_profiles(subject: ProfilesSubject) -> ReportFigure:
    """Draw the curves of profiles with their intervals."""
    result = subject.inputs.result(EntropyCurves)
    finding, lists = _finding(result)
    curves = of_profiles(subject.inputs, result.curves, _LABEL, from_zero=False)
    return curve_figure(
        curves,
        _TITLE,
        f"The {_WHAT}{curves.intervals}. A longer text uses more experts, so that languages "
        "with more tokens an item lie higher.",
        "the routing entropy",
        finding=finding,
        lists=lists,
    )


def _finding(result: EntropyCurves) -> tuple[str, tuple[LongList, ...]]:
    falls, rises, level, unknown = [], [], [], []
    for curve in result.curves:
        change = curve.contrasts.get("late - early")
        if change is None or change.low is None or change.high is None:
            unknown.append(curve.language)
        elif change.high < 0:
            falls.append(curve.language)
        elif change.low > 0:
            rises.append(curve.language)
        else:
            level.append(curve.language)
    count = plural(len(result.curves), "language")
    groups = (
        ("The late layers are less even than the early ones, beyond noise,", falls),
        ("the late layers are more even than the early ones, beyond noise,", rises),
        ("there is no difference beyond noise between early and late layers", level),
    )
    sentences, lists = [], list[LongList]()
    for text, languages in groups:
        if languages:
            where = text[:1].lower() + text[1:].rstrip(",")
            of_this = folded(f"The {len(languages)} languages where {where}", languages)
            sentences.append(f"{text} in {len(languages)} of {count}" + ("" if of_this else f" ({listing(languages)})"))
            lists += of_this
    if not sentences:
        means = sorted((curve.bands["all"].mean, curve.language) for curve in result.curves if "all" in curve.bands)
        texts = [f"{language} {mean:.3f}" for mean, language in means]
        lists = folded("Mean over all layers by language", texts)
        which = f"from {texts[0]} to {texts[-1]}" if lists else listing(texts)
        return f"Mean over all layers, without intervals: {which}.", tuple(lists)
    joined = "; ".join(sentences)
    finding = joined[:1].upper() + joined[1:] + "."
    if unknown:
        finding += f" No interval: {counted(unknown, 'languages')}."
        lists += folded("Languages without an interval", unknown)
    return finding, tuple(lists)
