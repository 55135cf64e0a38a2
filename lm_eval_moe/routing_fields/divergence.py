"""How far the routing of an item is from that of the same item in the reference language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe.metrics import normalized_js_divergence
from lm_eval_moe.routing_fields._base import Curve, RoutingField, Values, known, register, where_routed
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from lm_eval_moe.routing_record import RoutingRecord

__all__ = ["DIVERGENCE"]


def _divergence(record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
    assert reference is not None
    return where_routed(normalized_js_divergence, known(record.importance), known(reference.importance))


_CURVE = Curve("divergence", _divergence, frozenset({"importance"}), compares=True)

DIVERGENCE = RoutingField(
    "routing_divergence", _CURVE, "middle", higher_is_better=False, default=True, title="routing divergence"
)
"""The field that tables and figures show beside the scores."""

register(
    DIVERGENCE,
    RoutingField("routing_divergence_early", _CURVE, "early"),
    RoutingField("routing_divergence_late", _CURVE, "late"),
)
