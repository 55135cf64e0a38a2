"""What steering did to the selection: how often a targeted expert was selected, and how often the set changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.routing_fields._base import Curve, RoutingField, Values, register
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from lm_eval_moe.routing_record import RoutingRecord

__all__ = ["STEERED_SELECTION"]


def _selection(record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
    return _share(record.hit, record.targeted)


def _change(record: RoutingRecord, reference: RoutingRecord | None, shape: RoutingShape) -> Values:
    return _share(record.changed, record.targeted)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Values:
    share: Values = np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
    return share


STEERED_SELECTION = RoutingField(
    "steered_selection", Curve("steered_selection", _selection, steered=True), default=True
)
"""The field that says whether steering reaches the selection."""

register(
    STEERED_SELECTION,
    RoutingField("steered_change", Curve("steered_change", _change, steered=True, second_call=True)),
)
