"""What was captured: arrays over rows, layers and experts, for any span of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import UserError
from lm_eval_moe.metrics import js_divergence, normalized_js_divergence
from lm_eval_moe.routing_record import RoutingRecord
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["PARTS", "Routing", "RowRecords"]

PARTS = ("prompt", "continuation", "all")
"""The spans of a row: what a model was given, what it generated, and both."""

RowRecords = Mapping[str, RoutingRecord]
"""The record of each span of one row."""


@dataclass(frozen=True)
class Routing:
    """The routing of B rows over one span; L MoE layers, E experts, K of them selected for each token.

    Attributes:
        shape: The model's routing shape: which layers the axis L is, among how many experts.
        rows: The records of each row, by span.
        span: The span that the arrays below are over: ``all``, ``prompt`` or ``continuation``.
    """

    shape: RoutingShape
    rows: Sequence[RowRecords]
    span: str = "all"

    def __repr__(self) -> str:
        """Return the sizes, not the arrays."""
        shape = self.shape
        sizes = f"{len(shape.layers)} layers, {shape.experts} experts, top {shape.top_k}"
        return f"Routing({len(self)} rows, {sizes}, span {self.span!r})"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: int | slice) -> Routing:
        """Return some of the rows: ``routing[0]``, ``routing[2:4]``."""
        selection = [self.rows[rows]] if isinstance(rows, int) else self.rows[rows]
        return Routing(self.shape, selection, self.span)

    def over(self, span: str) -> Routing:
        """Return the same rows over another span.

        Raises:
            UserError: There is no such span.
        """
        if span not in PARTS:
            raise UserError(f"there is no span {span!r}", fix=f"the spans are {', '.join(PARTS)}")
        return Routing(self.shape, self.rows, span)

    @property
    def tokens(self) -> NDArray[np.int64]:
        """``[B]``: the tokens that the model was called with. Padding never counts, nor does what follows an end."""
        return np.array([record.tokens for record in self._records], dtype=np.int64)

    @property
    def counts(self) -> NDArray[np.int32]:
        """``[B, L, E]``: the tokens for which each expert was selected."""
        return self._stacked("counts", np.int32)

    @property
    def gate_mass(self) -> NDArray[np.float32]:
        """``[B, L, E]``: the sum of the combine weights, as the experts received them."""
        return self._stacked("gate_mass", np.float32)

    @property
    def importance(self) -> NDArray[np.float32]:
        """``[B, L, E]``: expert importance, the mean combine weight, renormalised over each token's selected experts.

        Each ``[E]`` sums to 1; it is NaN for a row without tokens in the span (arXiv 2510.04694, section 3).
        """
        return self._known("importance")

    @property
    def importance_dense(self) -> NDArray[np.float32]:
        """``[B, L, E]``: the mean of the router's distribution over all experts, NaN for a row without tokens."""
        return self._known("importance_dense")

    @property
    def overlap(self) -> NDArray[np.float32]:
        """``[B, L]``: the mean Jaccard overlap of the expert sets of consecutive tokens, NaN for less than two."""
        return self._stacked("overlap", np.float32)

    @property
    def steered(self) -> NDArray[np.int64]:
        """``[B, L]``: the tokens at which an intervention was in force."""
        return self._stacked("targeted", np.int64)

    def divergence(self, other: Routing, *, normalized: bool = False) -> NDArray[np.float64]:
        """Return the Jensen-Shannon divergence of expert importance, row by row and layer by layer.

        Args:
            other: The routing of as many rows, or of one that all are compared with; spans may differ.
            normalized: Divide by the room that the entropies leave (arXiv 2510.04694, section 3), which makes layers
                comparable.

        Returns:
            ``[B, L]`` in nats, from 0 to ln 2 (normalised: from 0 to 1); NaN where a row has no tokens.

        Raises:
            UserError: The two are of models of other shapes, or of other numbers of rows.
        """
        if (other.shape.layers, other.shape.experts) != (self.shape.layers, self.shape.experts):
            raise UserError(
                f"routing of {self.shape} cannot be compared with routing of {other.shape}",
                fix="compare rows computed by the same model, or by one of the same shape",
            )
        if len(other) not in (1, len(self)):
            raise UserError(
                f"{len(self)} rows cannot be compared with {len(other)}",
                fix="give the same number of rows, or a single one: routing.divergence(other[0])",
            )
        mine, theirs = np.broadcast_arrays(self.importance.astype(np.float64), other.importance.astype(np.float64))
        finite = np.isfinite(mine).all(-1) & np.isfinite(theirs).all(-1)
        values = np.full(finite.shape, np.nan)
        if finite.any():
            values[finite] = (normalized_js_divergence if normalized else js_divergence)(mine[finite], theirs[finite])
        return values

    def frame(self) -> DataFrame:
        """Return a pandas table, a line for each row, span, layer and expert that was ever selected.

        It has every span, whatever this one is over: ``all`` is the sum of the other two.

        Columns: ``row``, ``span``, ``tokens``, ``layer`` (the decoder layer), ``expert``, ``count``, ``gate_mass``,
        ``importance``.
        """
        import pandas

        parts = []
        for span in PARTS:
            routing = self.over(span)
            row, place, expert = np.nonzero(routing.counts)
            columns: dict[str, Any] = {
                "row": row,
                "span": span,
                "tokens": routing.tokens[row],
                "layer": np.array(self.shape.layers)[place],
                "expert": expert,
                "count": routing.counts[row, place, expert],
                "gate_mass": routing.gate_mass[row, place, expert],
                "importance": routing.importance[row, place, expert],
            }
            parts.append(pandas.DataFrame(columns))
        return pandas.concat(parts, ignore_index=True)

    @property
    def _records(self) -> list[RoutingRecord]:
        return [records[self.span] for records in self.rows]

    def _stacked(self, name: str, dtype: Any) -> NDArray[Any]:
        width = (len(self.shape.layers), self.shape.experts)
        if not self.rows:
            return np.zeros((0, *(width[:1] if name in ("overlap", "targeted") else width)), dtype)
        return np.stack([getattr(record, name) for record in self._records]).astype(dtype)

    def _known(self, name: str) -> NDArray[np.float32]:
        return np.where((self.tokens > 0)[:, None, None], self._stacked(name, np.float32), np.float32(np.nan))
