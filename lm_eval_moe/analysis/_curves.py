"""Curves over layers: means over items with their intervals, by layer, by band, and between bands."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.analysis._base import jsonable
from lm_eval_moe.analysis._inputs import LanguageRouting
from lm_eval_moe.shape import BANDS, RoutingShape
from lm_eval_moe.statistics import ClusteredValues, Estimate
from lm_eval_moe.tables import TableValue

__all__ = ["CONTRASTS", "CURVE_COLUMNS", "LanguageCurve", "MeanInterval", "Values", "mean_of_languages"]

Values = NDArray[np.float64]

CONTRASTS = {
    "middle - early": ("middle", "early"),
    "middle - late": ("middle", "late"),
    "late - early": ("late", "early"),
}
"""The differences of band means that are estimated item by item."""

CURVE_COLUMNS = ("language", "level", "part", "at", "mean", "stderr", "low", "high", "items")


@dataclass(frozen=True)
class MeanInterval:
    """A mean over items.

    Attributes:
        mean: NaN where no item has a value.
        stderr: Its standard error; None where it cannot be known, as for pooled counts.
        low: Lower end of the 95 % interval, by Student's t; None like the standard error.
        high: Upper end.
        items: How many items have a value.
    """

    mean: float
    stderr: float | None
    low: float | None
    high: float | None
    items: int

    @classmethod
    def of(cls, values: Values) -> MeanInterval:
        """Return the mean of values, NaN left out."""
        numbers = values[~np.isnan(values)]
        if not numbers.size:
            return cls(math.nan, None, None, None, 0)
        stderr = float(numbers.std(ddof=1) / math.sqrt(numbers.size)) if numbers.size > 1 else None
        return cls.around(Estimate(float(numbers.mean()), stderr), numbers.size)

    @classmethod
    def around(cls, estimate: Estimate, items: int) -> MeanInterval:
        """Return the interval of a mean over so many independent items."""
        from scipy.stats import t

        if estimate.stderr is None:
            return cls(estimate.value, None, None, None, items)
        half = float(t.ppf(0.975, items - 1)) * estimate.stderr
        return cls(estimate.value, estimate.stderr, estimate.value - half, estimate.value + half, items)

    def text(self, digits: int = 3, *, sign: bool = False) -> str:
        """Write it as ``0.123 [0.120, 0.127]``."""
        if math.isnan(self.mean):
            return "-"
        form = f"{'+' if sign else ''}.{digits}f"
        if self.low is None or self.high is None:
            return f"{self.mean:{form}}"
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class LanguageCurve:
    """One language's curve over the MoE layers.

    Attributes:
        language: Its tag.
        level: Whether it is a mean over items, or that of all items pooled, which has no interval.
        items: How many items it is of; of pooled counts, their rows.
        tokens: Their tokens in this language.
        layers: By decoder-layer index.
        bands: The mean over the layers of ``early``, ``middle``, ``late`` and ``all``; a band without layers is not
            there.
        contrasts: Differences of band means, as `CONTRASTS` names them.
    """

    language: str
    level: Literal["items", "pooled"]
    items: int
    tokens: int
    layers: Mapping[int, MeanInterval]
    bands: Mapping[str, MeanInterval]
    contrasts: Mapping[str, MeanInterval]

    @classmethod
    def of(cls, language: str, values: Values, shape: RoutingShape, *, tokens: int) -> LanguageCurve:
        """Return the curve of items' values ``[items, L]``, NaN where an item has none, over so many tokens."""
        return cls(language, "items", len(values), tokens, *_parts(_means(values, shape)))

    @classmethod
    def pooled(cls, routing: LanguageRouting, values: Values, shape: RoutingShape) -> LanguageCurve:
        """Return the curve of the value ``[L]`` of all rows of a language pooled."""
        parts = _parts(_means(values[None], shape))
        return cls(routing.language, "pooled", len(routing.rows), sum(routing.tokens.values()), *parts)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        content = jsonable(asdict(self))
        content["differences"] = content.pop("contrasts")
        return content

    def cells(self, contrast: str) -> list[str]:
        """Return the language, the means of its bands and one of their differences, for people."""
        bands = [f"{self.bands[band].mean:.4f}" if band in self.bands else "-" for band in BANDS]
        return [self.language, *bands, self.contrasts[contrast].text(sign=True) if contrast in self.contrasts else "-"]

    def rows(self) -> Iterator[Sequence[TableValue]]:
        """Yield rows of `CURVE_COLUMNS`."""
        parts: Sequence[tuple[str, Mapping[Any, MeanInterval]]]
        parts = (("layer", self.layers), ("band", self.bands), ("difference", self.contrasts))
        for part, entries in parts:
            for at, interval in entries.items():
                mean = None if math.isnan(interval.mean) else interval.mean
                yield (
                    self.language,
                    self.level,
                    part,
                    at,
                    mean,
                    interval.stderr,
                    interval.low,
                    interval.high,
                    interval.items,
                )


def mean_of_languages(
    values: Mapping[str, tuple[Sequence[Hashable], Values]], shape: RoutingShape, tokens: int
) -> LanguageCurve | None:
    """Return the mean over languages of their curves; the same item in several languages is one cluster.

    Args:
        values: For every language, the name of each item and its values ``[items, L]``.
        shape: The model's.
        tokens: Of all of them.

    Returns:
        None for fewer than two languages.
    """
    if len(values) < 2:
        return None
    columns = {language: (names, _columns(item_values, shape)) for language, (names, item_values) in values.items()}
    intervals: dict[int | str, MeanInterval] = {}
    for part in next(iter(columns.values()))[1]:
        groups = [
            [(name, float(x)) for name, x in zip(names, parts[part], strict=True) if not math.isnan(x)]
            for names, parts in columns.values()
        ]
        clusters = len({name for group in groups for name, _ in group})
        if all(groups):
            intervals[part] = MeanInterval.around(ClusteredValues.of(groups).mean(), clusters)
        else:
            intervals[part] = MeanInterval(math.nan, None, None, None, 0)
    items = len({name for names, _ in values.values() for name in names})
    return LanguageCurve("mean", "items", items, tokens, *_parts(intervals))


_Means = dict[int | str, MeanInterval]


def _means(values: Values, shape: RoutingShape) -> _Means:
    return {name: MeanInterval.of(column) for name, column in _columns(values, shape).items()}


def _parts(means: _Means) -> tuple[dict[int, MeanInterval], dict[str, MeanInterval], dict[str, MeanInterval]]:
    """Tell layers, bands and differences of bands apart."""
    layers = {name: mean for name, mean in means.items() if isinstance(name, int)}
    bands = {name: means[name] for name in (*BANDS, "all") if name in means}
    return layers, bands, {name: means[name] for name in CONTRASTS if name in means}


def _columns(values: Values, shape: RoutingShape) -> dict[int | str, Values]:
    """Return the values ``[items]`` of every layer, band and difference of bands."""
    columns: dict[int | str, Values] = {layer: values[:, row] for row, layer in enumerate(shape.layers)}
    for band in (*BANDS, "all"):
        layers = shape.band(band)
        if layers:
            with warnings.catch_warnings():
                # An item without a value in any layer of a band has none for the band.
                warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
                columns[band] = np.nanmean(values[:, [shape.layers.index(layer) for layer in layers]], axis=1)
    for name, (first, second) in CONTRASTS.items():
        if first in columns and second in columns:
            columns[name] = columns[first] - columns[second]
    return columns
