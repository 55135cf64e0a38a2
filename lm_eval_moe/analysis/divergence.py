"""``divergence``: how differently every language is routed than the reference, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lm_eval_moe.analysis._base import Analysis
from lm_eval_moe.analysis._curves import CURVE_COLUMNS, LanguageCurve, Values, mean_of_languages
from lm_eval_moe.analysis._inputs import AnalysisInputs, ItemName, LanguageRouting
from lm_eval_moe.metrics import normalized_js_divergence, where_routed
from lm_eval_moe.tables import TableValue, aligned

if TYPE_CHECKING:
    from typing import Self

__all__ = ["DivergenceCurves", "Shape", "shape_of"]

Shape = Literal["U", "not U", "undecided", "U by its means", "not U by its means", "unknown"]


@dataclass(frozen=True)
class DivergenceCurves(Analysis):
    """``Div(lang, l)``: the mean over items of the entropy-normalised Jensen-Shannon divergence to the reference.

    Bandarkar et al., arXiv 2510.04694: an item's expert importance against that of the same item in the reference
    language. Profiles without items are compared as a whole, every token alike: that is another, smaller number, since
    items average out, and it has no interval. Short texts diverge more by chance alone.

    Attributes:
        reference: The language compared with.
        curves: One a language.
        mean: The mean over the languages that were compared item by item; None for fewer than two.
        unpaired: Items that are only in the language, and only in the reference, by language.
    """

    name = "divergence"
    rank = 10
    columns = CURVE_COLUMNS
    reference: str
    curves: tuple[LanguageCurve, ...]
    mean: LanguageCurve | None
    unpaired: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, inputs: AnalysisInputs) -> Self:
        """Compare every language with the reference."""
        inputs.require_languages(2)
        reference = inputs.languages[inputs.reference]
        reference_values = {name: values for _, name, values in _values_by_item(reference)} if reference.items else {}
        curves, unpaired, by_item = [], {}, {}
        for language in inputs.others:
            routing = inputs.languages[language]
            common = [name for name in routing.items if name in reference_values]
            if routing.items and reference_values:
                unpaired[language] = (len(routing.items) - len(common), len(reference.items.keys() - set(common)))
            pairs = [
                (name, where_routed(normalized_js_divergence, values, reference_values[name]), routing.tokens[row])
                for row, name, values in (_values_by_item(routing) if common else ())
                if name in reference_values
            ]
            if pairs:
                names, values, lengths = zip(*pairs, strict=True)
                by_item[language] = (names, np.stack(values))
                curve = LanguageCurve.of(language, by_item[language][1], inputs.shape, tokens=sum(lengths))
            else:
                both = (one_routing.profile.pooled_importance(one_routing.rows) for one_routing in (routing, reference))
                curve = LanguageCurve.pooled(routing, where_routed(normalized_js_divergence, *both), inputs.shape)
            curves.append(curve)
        tokens = sum(curve.tokens for curve in curves if curve.level == "items")
        return cls(inputs.reference, tuple(curves), mean_of_languages(by_item, inputs.shape, tokens), unpaired)

    def to_dict(self) -> dict[str, Any]:
        """Return the curves, each with its shape."""
        return {
            "reference": self.reference,
            "measure": "entropy-normalised Jensen-Shannon divergence of expert importance, arXiv 2510.04694",
            "languages": [
                {**_with_shape(curve), "unpaired_items": list(self.unpaired.get(curve.language, ())) or None}
                for curve in self.curves
            ],
            "mean": None if self.mean is None else _with_shape(self.mean),
        }

    def rows(self) -> Iterator[Sequence[TableValue]]:
        """Yield every language's curve, then their mean."""
        for curve in self._with_mean():
            yield from curve.rows()

    def lines(self) -> list[str]:
        """Return a line a language: the middle layers, and how they differ from the outer ones."""
        rows = [["", "middle", "middle - early", "middle - late", "shape", "of"]]
        for curve in self._with_mean():
            differences = [curve.contrasts.get(name) for name in ("middle - early", "middle - late")]
            middle = curve.bands.get("middle")
            unpaired = sum(self.unpaired.get(curve.language, ()))
            rows.append(
                [
                    curve.language,
                    middle.text() if middle else "-",
                    *(difference.text(sign=True) if difference else "-" for difference in differences),
                    shape_of(curve),
                    (f"{curve.items} items" if curve.level == "items" else "all pooled")
                    + (f", {unpaired} unpaired" if unpaired else ""),
                ]
            )
        return [f"divergence to {self.reference} (lower is closer; in brackets 95 % over items)", *aligned(rows)]

    def _with_mean(self) -> tuple[LanguageCurve, ...]:
        return (*self.curves, self.mean) if self.mean else self.curves


def _with_shape(curve: LanguageCurve) -> dict[str, Any]:
    return {**curve.to_dict(), "shape": shape_of(curve)}


def shape_of(curve: LanguageCurve) -> Shape:
    """Say whether a curve is lower in the middle layers than in both the early and the late ones.

    ``U``: both differences lie below 0 with their whole intervals. ``not U``: one of them lies above 0 with its whole
    interval. ``undecided``: neither. Without intervals only the means are compared, and the answer says so. The
    intervals are each language's own: over many languages some are on the wrong side by chance.
    """
    differences = [curve.contrasts.get(name) for name in ("middle - early", "middle - late")]
    intervals = [interval for interval in differences if interval is not None and not np.isnan(interval.mean)]
    if len(intervals) < 2:
        return "unknown"
    ends = [
        (interval.low, interval.high)
        for interval in intervals
        if interval.low is not None and interval.high is not None
    ]
    if len(ends) < 2:
        return "U by its means" if all(interval.mean < 0 for interval in intervals) else "not U by its means"
    if all(high < 0 for _, high in ends):
        return "U"
    return "not U" if any(low > 0 for low, _ in ends) else "undecided"


def _values_by_item(routing: LanguageRouting) -> Iterator[tuple[int, ItemName, Values]]:
    names = {row: name for name, row in routing.items.items()}
    for row, values in routing.profile.importance(routing.rows):
        yield row, names[row], values
