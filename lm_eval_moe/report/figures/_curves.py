"""Curves over layers, one line per language, from profiles or from results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lm_eval_moe.analysis import NotPossible
from lm_eval_moe.report.figures._tiers import MANY
from lm_eval_moe.results import Benchmark
from lm_eval_moe.results.benchmarks import LanguageResult
from lm_eval_moe.shape import BANDS

if TYPE_CHECKING:
    from lm_eval_moe.analysis import AnalysisInputs, LanguageCurve

__all__ = ["MOST_AREAS", "Curves", "Line", "SteeredLayers", "of_profiles", "of_results"]

MOST_AREAS = 8
"""Intervals are drawn for up to so many lines; of more they would cover each other, and are in the data only."""

_EMPTY = 1 / 3
"""An axis begins at 0 where that leaves no more than this share of its height without a line."""


@dataclass(frozen=True)
class Line:
    """One language: mean, and the ends of its 95 % interval where there is one, by decoder layer."""

    language: str
    points: Mapping[int, tuple[float, float | None, float | None]]
    items: int | None = None

    def mean(self, layers: Sequence[int]) -> float:
        """Return the mean over those of some layers that have a value; over all where none has."""
        values = [self.points[layer][0] for layer in layers if layer in self.points]
        values = values or [point[0] for point in self.points.values()]
        return math.fsum(values) / len(values)


@dataclass(frozen=True)
class SteeredLayers:
    """The layers that a run steers: its number, what it is called, and which."""

    run: int
    name: str
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Curves:
    """What is drawn.

    Attributes:
        layers: The MoE layers.
        bands: The layers of ``early``, ``middle`` and ``late``.
        lines: One per language.
        languages: All languages of the section, so that one looks the same in all its figures.
        label: Of the vertical axis.
        steered: What runs steer, as strips below the axis.
        level: A value to compare with, such as that by chance.
        from_zero: Whether the axis begins at 0 if that leaves little of it empty.
    """

    layers: Sequence[int]
    bands: Mapping[str, Sequence[int]]
    lines: Sequence[Line]
    languages: Sequence[str]
    label: str
    steered: Sequence[SteeredLayers] = ()
    level: float | None = None
    from_zero: bool = True

    @property
    def intervals(self) -> str:
        """Where the intervals are, in words."""
        if not any(low is not None for line in self.lines for _, low, _ in line.points.values()):
            return ""
        return ", with 95 % intervals" if len(self.lines) <= MOST_AREAS else "; 95 % intervals are in the data"

    @cached_property
    def drawn(self) -> list[Line]:
        """The lines that have a value, by language."""
        return sorted((line for line in self.lines if line.points), key=lambda line: line.language)

    @property
    def are_many(self) -> bool:
        """Whether there are too many lines to tell each by its colour."""
        return len(self.drawn) > MANY

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The least and the largest value of the axis: of the means, and of what else is drawn."""
        points = [point for line in self.drawn for point in line.points.values()]
        values = [point[0] for point in points] + ([self.level] if self.level is not None else [])
        if len(self.drawn) <= MOST_AREAS:
            values += [end for point in points for end in point[1:] if end is not None]
        top, least = max(values), min(values)
        if self.from_zero and 0 <= least <= _EMPTY * top:
            least = 0.0
        return least, top

    @property
    def extremes(self) -> list[Line]:
        """The two lowest and the two highest lines by their mean over the middle layers, and those with the peaks."""
        ordered = sorted(self.drawn, key=lambda line: (line.mean(self.bands.get("middle", ())), line.language))
        peaks = [
            end(self.drawn, key=lambda line: end(point[0] for point in line.points.values())) for end in (min, max)
        ]
        return list({line.language: line for line in (*ordered[:2], *ordered[-2:], *peaks)}.values())


def of_profiles(inputs: AnalysisInputs, curves: Sequence[LanguageCurve], label: str, **more: Any) -> Curves:
    """Return the curves of an analysis, layers without a value left out; the rest as `Curves` has it.

    Raises:
        NotPossible: No layer of any language has a value.
    """
    shape = inputs.shape
    lines = [
        Line(
            curve.language,
            {
                layer: (interval.mean, interval.low, interval.high)
                for layer, interval in curve.layers.items()
                if not math.isnan(interval.mean)
            },
            curve.items,
        )
        for curve in curves
    ]
    if not any(line.points for line in lines):
        raise NotPossible(
            "no layer has a value in any language", "give profiles of texts on which experts were selected"
        )
    return Curves(
        shape.layers, {band: shape.band(band) for band in BANDS}, lines, list(inputs.languages), label, **more
    )


def of_results(
    benchmark: Benchmark,
    languages: Iterable[str],
    values_of: Callable[[LanguageResult], Sequence[float | None] | None],
    label: str,
    **more: Any,
) -> Curves | None:
    """Return the baseline's curves of some languages, without intervals; None if it has none."""
    run, lines = benchmark.runs[0], []
    for lang in languages:
        cell = benchmark.cells[0].get(lang)
        values = values_of(cell) if cell else None
        if cell and values and len(values) == len(run.layers):
            layer_values = zip(run.layers, values, strict=True)
            points = {layer: (float(value), None, None) for layer, value in layer_values if value is not None}
            lines += [Line(lang, points, cell.documents or None)] if points else []
    bands = {band: run.band(band) for band in BANDS}
    return Curves(run.layers, bands, lines, list(benchmark.languages), label, **more) if lines else None
