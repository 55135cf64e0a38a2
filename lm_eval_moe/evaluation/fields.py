"""The result fields: each is a per-layer curve of an item, brought to one number.

Adding a field is adding an entry to `FIELDS` (and, if it needs a new curve, a function to `CURVES`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.capture import RoutingRecord
from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.metrics import expert_overlap, normalized_entropy, normalized_js_divergence, where_routed
from lm_eval_moe.shape import RoutingShape

__all__ = ["CURVES", "FIELDS", "Curve", "Field", "chosen_fields"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One number per MoE layer for an item.

    Attributes:
        name: Its key in the ``routing`` object.
        of: From the item's record, its reference's record and the shape to ``[L]``.
        arrays: The arrays of a record that it reads.
        compares: Whether it needs the same item in the reference language.
        steered: Whether it exists only under steering.
    """

    name: str
    of: Callable[[RoutingRecord, RoutingRecord | None, RoutingShape], Values]
    arrays: frozenset[str] = frozenset()
    compares: bool = False
    steered: bool = False


def _divergence(record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
    assert reference is not None
    return where_routed(normalized_js_divergence, _some(record.importance), _some(reference.importance))


def _entropy(record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
    return where_routed(normalized_entropy, _some(record.importance))


def _overlap(record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
    assert reference is not None
    return where_routed(
        lambda f_p, f_q, tie_p, tie_q: expert_overlap(f_p, f_q, shape.top_k, tie_p, tie_q),
        _some(record.counts) / record.tokens,
        _some(reference.counts) / reference.tokens,
        _some(record.importance),
        _some(reference.importance),
    )


def _selection(record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
    return _share(record.hit, record.targeted)


def _change(record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
    return _share(record.changed, record.targeted)


def _some(array: NDArray[np.float32] | NDArray[np.int32] | None) -> Values:
    if array is None:
        raise RuntimeError("a record lacks an array that a field was to read")
    return array.astype(np.float64)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Values:
    share: Values = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return share


CURVES = {
    curve.name: curve
    for curve in (
        Curve("divergence", _divergence, frozenset({"importance"}), compares=True),
        Curve("entropy", _entropy, frozenset({"importance"})),
        Curve("overlap", _overlap, frozenset({"counts", "importance"}), compares=True),
        Curve("steered_selection", _selection, steered=True),
        Curve("steered_change", _change, steered=True),
    )
}
"""The per-layer curves, by their key in the ``routing`` object."""


@dataclass(frozen=True)
class Field:
    """One result field.

    Attributes:
        name: The metric's name in lm-eval's results.
        curve: The curve that it sums up.
        band: The layers it is the mean of; None for all that have a value.
        higher_is_better: As lm-eval shows it; None where neither way is better.
    """

    name: str
    curve: Curve
    band: Literal["early", "middle", "late"] | None = None
    higher_is_better: bool | None = None

    def value(self, curve: Values, shape: RoutingShape) -> float | None:
        """Return the mean of an item's curve over the field's layers, None where none of them has a value."""
        layers = shape.layers if self.band is None else shape.band(self.band)
        chosen = curve[[shape.layers.index(layer) for layer in layers]]
        known = chosen[~np.isnan(chosen)]
        return float(known.mean()) if known.size else None


FIELDS = {
    field.name: field
    for field in (
        Field("routing_divergence", CURVES["divergence"], "middle", higher_is_better=False),
        Field("routing_divergence_early", CURVES["divergence"], "early"),
        Field("routing_divergence_late", CURVES["divergence"], "late"),
        Field("routing_entropy", CURVES["entropy"]),
        Field("routing_overlap", CURVES["overlap"], "middle", higher_is_better=True),
        Field("steered_selection", CURVES["steered_selection"]),
        Field("steered_change", CURVES["steered_change"]),
    )
}
"""The result fields by name."""

_DEFAULT = ("routing_divergence", "routing_entropy", "steered_selection")


def chosen_fields(names: str | Iterable[str] | None, *, steered: bool) -> tuple[Field, ...]:
    """Return the fields to report: the default ones, ``all``, or those named.

    Raises:
        UserError: A name is unknown.
    """
    wanted: Collection[str]
    if names is None:
        wanted = _DEFAULT
    else:
        given = names.split(",") if isinstance(names, str) else list(names)
        wanted = list(FIELDS) if given == ["all"] else [name.strip() for name in given if name.strip()]
    for name in wanted:
        if name not in FIELDS:
            raise UserError(
                f"there is no routing field {name!r}{did_you_mean(name, FIELDS)}",
                fix=f"choose among {', '.join(FIELDS)}, or all",
                where="--routing_fields",
            )
    return tuple(FIELDS[name] for name in FIELDS if name in wanted and (steered or not FIELDS[name].curve.steered))
