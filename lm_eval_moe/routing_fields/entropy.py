"""How evenly an item's routing is spread over the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe.metrics import normalized_entropy
from lm_eval_moe.routing_fields._base import Curve, RoutingField, Values, known, register, where_routed
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from lm_eval_moe.routing_record import RoutingRecord

__all__: list[str] = []


def _entropy(record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
    return where_routed(normalized_entropy, known(record.importance))


register(RoutingField("routing_entropy", Curve("entropy", _entropy, frozenset({"importance"})), default=True))
