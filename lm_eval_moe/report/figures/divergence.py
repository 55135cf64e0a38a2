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
    found = []
    for number, run in enumerate(runs):
        if run is None or not run.steering:
            continue
        steered = tuple(sorted(int(layer) for layer in run.steering.experts if int(layer) in layers))
        if steered:
            found.append(SteeredLayers(number, run.label, steered))
    return found


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
    inputs, found = subject.inputs, subject.inputs.result(DivergenceCurves)
    label = f"divergence to {found.reference} (0 = same routing)"
    curves = of_profiles(inputs, found.curves, label, steered=steered_layers(subject.runs, inputs.shape.layers))
    finding, lists = _finding(found)
    pooled = [curve.language for curve in found.curves if curve.level == "pooled"]
    level = (
        " Pooled over items, where they cancel out: lower than item by item, and without intervals." if pooled else ""
    )
    return curve_figure(
        curves,
        _TITLE,
        f"Divergence to {found.reference}, mean over items{curves.intervals}: {_WHAT}.{level}",
        f"the entropy-normalised Jensen-Shannon divergence to {found.reference}",
        finding=finding,
        lists=lists,
    )


def _finding(found: DivergenceCurves) -> tuple[str, tuple[LongList, ...]]:
    middles = [(curve.bands["middle"].mean, curve.language) for curve in found.curves if "middle" in curve.bands]
    middles = sorted(each for each in middles if not math.isnan(each[0]))
    said, lists = [], list[LongList]()
    if len(middles) > 1:
        (low, nearest), (high, farthest) = middles[0], middles[-1]
        said.append(
            f"In the middle layers {nearest} is routed most like {found.reference} ({low:.3f}) and {farthest} least "
            f"({high:.3f})."
        )
    by_shape: dict[str, list[str]] = {}
    for curve in found.curves:
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
            said.append(
                f"{count} of {plural(len(found.curves), 'language')} {'is' if count == 1 else 'are'} {text}{which}."
            )
            lists += of_this
    said += _differences(found.mean)
    return " ".join(said), tuple(lists)


def _differences(mean: LanguageCurve | None) -> list[str]:
    if mean is None:
        return []
    shown = [
        f"{name.replace(' - ', ' less ')} {minus(each.text(sign=True))}"
        for name in ("middle - early", "middle - late")
        if (each := mean.contrasts.get(name)) is not None and not math.isnan(each.mean)
    ]
    return [f"Mean over languages, in brackets its 95 % interval: {listing(shown)}."] if shown else []
