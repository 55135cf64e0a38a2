"""Divergence to the reference over the layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lm_eval_moe.analysis import LanguageCurve
from lm_eval_moe.analysis.divergence import DivergenceCurves, shape_of
from lm_eval_moe.long_lists import LongList, folded
from lm_eval_moe.number_text import minus
from lm_eval_moe.report.figures._base import BENCHMARK, PROFILES, BenchmarkSubject, ProfilesSubject, ReportFigure
from lm_eval_moe.report.figures._curve_figure import curve_figure
from lm_eval_moe.report.figures._curves import SteeredLayers, of_profiles, of_results
from lm_eval_moe.report.wording import listing, plural
from lm_eval_moe.results import Run

__all__ = ["divergence_of_profiles", "divergence_of_results", "steered_layers"]

_WHAT = "entropy-normalised Jensen-Shannon divergence of expert importance (arXiv:2510.04694)"
_TITLE = "Divergence through the layers"


def steered_layers(runs: Sequence[Run | None], layers: Sequence[int]) -> list[SteeredLayers]:
    """Return the layers that runs steer, of those with a router."""
    layers_of_runs = []
    for number, run in enumerate(runs):
        if run is None or not run.steering:
            continue
        steered = tuple(sorted(int(layer) for layer in run.steering.experts if int(layer) in layers))
        if steered:
            layers_of_runs.append(SteeredLayers(number, run.label, steered))
    return layers_of_runs


@BENCHMARK.figure("divergence", order=40, title=_TITLE)
def divergence_of_results(subject: BenchmarkSubject) -> ReportFigure | None:
    """Draw the baseline's curves of a benchmark, which have no intervals, unless profiles give them with some."""
    if subject.covered:
        return None
    benchmark, run = subject.benchmark, subject.benchmark.runs[0]
    label = f"divergence to {benchmark.reference} (0 = same routing)"
    steered = steered_layers(benchmark.runs, run.layers)
    curves = of_results(benchmark, benchmark.languages, lambda cell: cell.divergence.curve, label, steered=steered)
    if curves is None:
        return None
    return curve_figure(
        curves,
        _TITLE,
        f"Divergence to {benchmark.reference} in {run.label}, mean over items: {_WHAT}.",
        f"the entropy-normalised Jensen-Shannon divergence to {benchmark.reference}",
        within=f" in {run.label}",
        tabulated=False,  # the section has a table with a column a layer
    )


@PROFILES.figure("divergence", order=10, title=_TITLE)
def divergence_of_profiles(subject: ProfilesSubject) -> ReportFigure:
    """Draw the curves of profiles with their intervals.

    Raises:
        NotPossible: There is nothing to compare with the reference.
    """
    inputs, result = subject.inputs, subject.inputs.result(DivergenceCurves)
    label = f"divergence to {result.reference} (0 = same routing)"
    curves = of_profiles(inputs, result.curves, label, steered=steered_layers(subject.runs, inputs.shape.layers))
    finding, lists = _finding(result)
    pooled = [curve.language for curve in result.curves if curve.level == "pooled"]
    level = (
        " Pooled over items, where they cancel out: lower than item by item, and without intervals." if pooled else ""
    )
    return curve_figure(
        curves,
        _TITLE,
        f"Divergence to {result.reference}, mean over items{curves.intervals}: {_WHAT}.{level}",
        f"the entropy-normalised Jensen-Shannon divergence to {result.reference}",
        finding=finding,
        lists=lists,
    )


def _finding(result: DivergenceCurves) -> tuple[str, tuple[LongList, ...]]:
    middles = [(curve.bands["middle"].mean, curve.language) for curve in result.curves if "middle" in curve.bands]
    middles = sorted(middle for middle in middles if not math.isnan(middle[0]))
    sentences, lists = [], list[LongList]()
    if len(middles) > 1:
        (low, nearest), (high, farthest) = middles[0], middles[-1]
        sentences.append(
            f"In the middle layers {nearest} is routed most like {result.reference} ({low:.3f}) and {farthest} least "
            f"({high:.3f})."
        )
    by_shape: dict[str, list[str]] = {}
    for curve in result.curves:
        by_shape.setdefault(shape_of(curve), []).append(curve.language)
    texts = {
        "U": "U-shaped, the middle layers below both the early and the late ones beyond noise",
        "not U": "not U-shaped: the middle layers lie above the early or the late ones beyond noise",
        "undecided": "neither shown to be U-shaped nor shown not to be",
        "U by its means": "U-shaped by the means alone, without intervals",
        "not U by its means": "not U-shaped by the means alone, without intervals",
    }
    for shape, text in texts.items():
        if shape in by_shape:
            count = len(by_shape[shape])
            brief = text.partition(":")[0].partition(",")[0]
            of_this = folded(f"The {count} languages that are {brief}", by_shape[shape])
            which = "" if of_this else f" ({listing(by_shape[shape])})"
            sentences.append(
                f"{count} of {plural(len(result.curves), 'language')} {'is' if count == 1 else 'are'} {text}{which}."
            )
            lists += of_this
    sentences += _differences(result.mean)
    return " ".join(sentences), tuple(lists)


def _differences(mean: LanguageCurve | None) -> list[str]:
    if mean is None:
        return []
    texts = [
        f"{name.replace(' - ', ' less ')} {minus(interval.text(sign=True))}"
        for name in ("middle - early", "middle - late")
        if (interval := mean.contrasts.get(name)) is not None and not math.isnan(interval.mean)
    ]
    return [f"Mean over languages, in brackets its 95 % interval: {listing(texts)}."] if texts else []
