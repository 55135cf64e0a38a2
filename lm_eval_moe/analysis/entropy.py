"""``entropy``: how evenly every language's texts spread over the experts, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.analysis._base import Analysis
from lm_eval_moe.analysis._curves import CURVE_COLUMNS, LanguageCurve
from lm_eval_moe.analysis._inputs import AnalysisInputs, LanguageRouting
from lm_eval_moe.metrics import normalized_entropy, where_routed
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.tables import TableValue, aligned

if TYPE_CHECKING:
    from typing import Self

__all__ = ["EntropyCurves"]


@dataclass(frozen=True)
class EntropyCurves(Analysis):
    """The mean over items of ``H(q) / ln E``, the entropy of an item's expert importance (arXiv 2510.04694).

    Of profiles without items it is the entropy of all items pooled, which is larger: the two do not compare. A longer
    text uses more experts, so languages that take more tokens for the same content are higher.

    Attributes:
        experts: E; in nats the entropy is ``ln E`` times the value.
        curves: One a language, the reference included.
    """

    name = "entropy"
    rank = 20
    columns = CURVE_COLUMNS
    experts: int
    curves: tuple[LanguageCurve, ...]

    @classmethod
    def of(cls, inputs: AnalysisInputs) -> Self:
        """Take every language's entropy."""
        return cls(inputs.shape.experts, tuple(_curve(routing, inputs.shape) for routing in inputs.languages.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return the curves."""
        return {
            "measure": "entropy of expert importance over ln(experts)",
            "experts": self.experts,
            "languages": [curve.to_dict() for curve in self.curves],
        }

    def rows(self) -> Iterator[Sequence[TableValue]]:
        """Yield every language's curve."""
        for curve in self.curves:
            yield from curve.rows()

    def lines(self) -> list[str]:
        """Return a line a language: the bands, and whether it falls with depth."""
        rows = [["", "early", "middle", "late", "late - early", "tokens"]]
        for curve in self.curves:
            per_item = f"{curve.tokens / curve.items:.1f} per item" if curve.level == "items" else f"{curve.tokens:,}"
            rows.append([*curve.cells("late - early"), per_item])
        return ["entropy of expert importance, of ln E (1: all experts alike)", *aligned(rows)]


def _curve(routing: LanguageRouting, shape: RoutingShape) -> LanguageCurve:
    if not routing.items:
        pooled = where_routed(normalized_entropy, routing.profile.pooled_importance(routing.rows))
        return LanguageCurve.pooled(routing, pooled, shape)
    importance = routing.profile.importance(routing.rows)
    values = {row: where_routed(normalized_entropy, of_item) for row, of_item in importance}
    tokens = sum(routing.tokens[row] for row in values)
    return LanguageCurve.of(routing.language, np.stack(list(values.values())), shape, tokens=tokens)
