"""How many of an item's most active experts are those of the same item in the reference language."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe.metrics import expert_overlap
from lm_eval_moe.routing_fields._base import Curve, RoutingField, Values, known, register, where_routed
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from lm_eval_moe.routing_record import RoutingRecord

__all__: list[str] = []


def _overlap(record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
    assert reference is not None
    return where_routed(
        lambda f_p, f_q, tie_p, tie_q: expert_overlap(f_p, f_q, shape.top_k, tie_p, tie_q),
        known(record.counts) / record.tokens,
        known(reference.counts) / reference.tokens,
        known(record.importance),
        known(reference.importance),
    )


_CURVE = Curve("overlap", _overlap, frozenset({"counts", "importance"}), compares=True)

register(RoutingField("routing_overlap", _CURVE, "middle", higher_is_better=True))
