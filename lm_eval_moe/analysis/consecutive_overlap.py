"""``consecutive_overlap``: how alike the experts of neighbouring tokens are, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.analysis._base import Analysis
from lm_eval_moe.analysis._curves import CURVE_COLUMNS, LanguageCurve
from lm_eval_moe.analysis._inputs import AnalysisInputs, LanguageRouting, NotPossible
from lm_eval_moe.shape import BANDS, RoutingShape
from lm_eval_moe.tables import TableValue, aligned

if TYPE_CHECKING:
    from typing import Self

__all__ = ["ConsecutiveOverlap", "overlap_by_chance"]


@dataclass(frozen=True)
class ConsecutiveOverlap(Analysis):
    """The mean over items of the mean over t of ``|S_t & S_t+1| / |S_t | S_t+1|`` (arXiv 2510.04694).

    S_t are the experts selected for token t. An item of a single token has no pair, and does not count.

    Attributes:
        chance: The overlap of two sets of K out of E experts that are drawn evenly and independently.
        curves: One a language for which it was captured.
        without: The languages for which it was not.
    """

    name = "consecutive_overlap"
    rank = 30
    columns = CURVE_COLUMNS
    chance: float
    curves: tuple[LanguageCurve, ...]
    without: tuple[str, ...]

    @classmethod
    def of(cls, inputs: AnalysisInputs) -> Self:
        """Take every language's overlaps."""
        routings = {name: routing for name, routing in inputs.languages.items() if cls.name in routing.profile.arrays}
        if not routings:
            raise NotPossible(
                "no profile holds the overlap of consecutive tokens",
                "capture it with `lm-eval-moe profile --arrays consecutive_overlap`",
            )
        curves = tuple(_curve(routing, inputs.shape) for routing in routings.values())
        without = tuple(language for language in inputs.languages if language not in routings)
        return cls(overlap_by_chance(inputs.shape), curves, without)

    def to_dict(self) -> dict[str, Any]:
        """Return the curves."""
        return {
            "measure": "Jaccard overlap of the experts of consecutive tokens",
            "by_chance": self.chance,
            "languages": [curve.to_dict() for curve in self.curves],
            "not_captured": list(self.without),
        }

    def rows(self) -> Iterator[Sequence[TableValue]]:
        """Yield every language's curve."""
        for curve in self.curves:
            yield from curve.rows()

    def lines(self) -> list[str]:
        """Return a line a language."""
        rows = [["", *BANDS, "middle - early"], *(curve.cells("middle - early") for curve in self.curves)]
        lines = [f"overlap of consecutive tokens' experts (by chance {self.chance:.4f})", *aligned(rows)]
        return [*lines, *([f"  not captured for {', '.join(self.without)}"] if self.without else [])]


def overlap_by_chance(shape: RoutingShape) -> float:
    """Return the expected Jaccard overlap of two independent sets of K of E experts, all experts alike.

    The size of their intersection is hypergeometric.
    """
    from scipy.stats import hypergeom

    common = np.arange(shape.top_k + 1)
    jaccard = common / (2 * shape.top_k - common)
    return float(hypergeom.pmf(common, shape.experts, shape.top_k, shape.top_k) @ jaccard)


def _curve(routing: LanguageRouting, shape: RoutingShape) -> LanguageCurve:
    values = routing.profile.array("consecutive_overlap")[list(routing.rows)].astype(np.float64)
    tokens = [routing.tokens[row] for row in routing.rows]
    if routing.items:
        return LanguageCurve.of(routing.language, values, shape, tokens=sum(tokens))
    is_number = ~np.isnan(values)
    weights = np.array(tokens)[:, None] * is_number
    total = weights.sum(0)
    mean = np.where(is_number, values, 0.0) * weights
    pooled = np.divide(mean.sum(0), total, out=np.full(len(total), np.nan), where=total > 0)
    return LanguageCurve.pooled(routing, pooled, shape)
