"""Routing records: what they hold, how they are accumulated, and which request a batch row belongs to."""

from __future__ import annotations

from lm_eval_moe.recording.attribution import AttributionError, ExpectedRow, RequestKey, RowQueue, RowUse
from lm_eval_moe.recording.generation import GenerationTracker
from lm_eval_moe.recording.recorder import Recorder
from lm_eval_moe.recording.segments import Forest
from lm_eval_moe.recording.store import RecordStore
from lm_eval_moe.recording.token_rows import NONE, Steered, TokenRows
from lm_eval_moe.routing_record import ARRAYS, SPANS, RoutingRecord, Span

__all__ = [
    "ARRAYS",
    "NONE",
    "SPANS",
    "AttributionError",
    "ExpectedRow",
    "Forest",
    "GenerationTracker",
    "RecordStore",
    "Recorder",
    "RequestKey",
    "RoutingRecord",
    "RowQueue",
    "RowUse",
    "Span",
    "Steered",
    "TokenRows",
]
