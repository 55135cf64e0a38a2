"""Entropy of the routing over the layers."""

from __future__ import annotations

import math

from lm_eval_moe.analysis.entropy import EntropyCurves
from lm_eval_moe.report.figures._base import BENCHMARK, PROFILES, OfBenchmark, OfProfiles, ReportFigure
from lm_eval_moe.report.figures._curves import (
    COLUMNS,
    Curves,
    Line,
    draw_curves,
    from_analysis,
    intervals_shown,
    rows_of,
)
from lm_eval_moe.report.wording import listing, plural
from lm_eval_moe.shape import BANDS

__all__ = ["entropy_of_profiles", "entropy_of_results"]

_LABEL = "entropy (1 = all experts alike)"
_TITLE = "Entropy through the layers"
_WHAT = "entropy of expert importance over ln(experts), mean over items"


@BENCHMARK.figure("entropy", order=50, title=_TITLE)
def entropy_of_results(subject: OfBenchmark) -> ReportFigure | None:
    """Draw the baseline's curves of a benchmark, which have no intervals, unless profiles give them with some."""
    if subject.covered:
        return None
    benchmark, run = subject.benchmark, subject.benchmark.runs[0]
    lines = []
    for lang, cell in benchmark.cells[0].items():
        values = run.task_routing(cell.task).curves.get("entropy")
        if values and len(values) == len(run.layers):
            known = zip(run.layers, values, strict=True)
            points = {layer: (float(value), None, None) for layer, value in known if value is not None}
            if points:
                lines.append(Line(lang, points, cell.documents or None))
    if not lines:
        return None
    bands = {band: run.band(band) for band in BANDS}
    figure = Curves(run.layers, bands, lines, list(benchmark.languages), _LABEL, from_zero=False)
    means = {
        band: [point[0] for line in lines for layer, point in line.points.items() if layer in layers]
        for band, layers in bands.items()
    }
    shown = [f"{math.fsum(values) / len(values):.3f} ({band})" for band, values in means.items() if values]
    return ReportFigure(
        _TITLE,
        f"Routing in {run.label}: {_WHAT}.",
        f"Line plot of the routing entropy over {len(run.layers)} layers for "
        f"{listing([line.language for line in lines])} in {run.label}.",
        COLUMNS,
        rows_of(lines),
        lambda colours: draw_curves(figure, colours),
        finding=f"Mean entropy over {plural(len(lines), 'language')}: {listing(shown)}.",
    )


@PROFILES.figure("entropy", order=20, title=_TITLE)
def entropy_of_profiles(subject: OfProfiles) -> ReportFigure:
    """Draw the curves of profiles with their intervals."""
    material, found = subject.material, subject.material.result(EntropyCurves)
    shape, lines = material.shape, from_analysis(found.curves)
    curves = Curves(
        shape.layers,
        {band: shape.band(band) for band in BANDS},
        lines,
        list(material.languages),
        _LABEL,
        from_zero=False,
    )
    return ReportFigure(
        _TITLE,
        f"The {_WHAT}{intervals_shown(lines)}. A longer text uses more experts, so that languages "
        "with more tokens an item lie higher.",
        f"Line plot of the routing entropy over {len(shape.layers)} layers for "
        f"{listing([line.language for line in lines])}.",
        COLUMNS,
        rows_of(lines),
        lambda colours: draw_curves(curves, colours),
        finding=_finding(found),
    )


def _finding(found: EntropyCurves) -> str:
    falls, rises, level, unknown = [], [], [], []
    for curve in found.curves:
        change = curve.contrasts.get("late - early")
        if change is None or change.low is None or change.high is None:
            unknown.append(curve.language)
        elif change.high < 0:
            falls.append(curve.language)
        elif change.low > 0:
            rises.append(curve.language)
        else:
            level.append(curve.language)
    count = plural(len(found.curves), "language")
    said = [
        f"{text} in {len(languages)} of {count} ({listing(languages)})"
        for text, languages in (
            ("The late layers are less even than the early ones, beyond noise,", falls),
            ("the late layers are more even than the early ones, beyond noise,", rises),
            ("there is no difference beyond noise between early and late layers", level),
        )
        if languages
    ]
    if not said:
        means = [f"{curve.language} {curve.bands['all'].mean:.3f}" for curve in found.curves if "all" in curve.bands]
        return f"Mean over all layers, without intervals: {listing(means)}."
    text = "; ".join(said)
    return text[:1].upper() + text[1:] + "." + (f" {listing(unknown)}: no interval." if unknown else "")
