"""What to record of the requests that run next, and what was recorded of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lm_eval_moe.recording import ARRAYS, RecordStore, RequestKey, RoutingRecord
from lm_eval_moe.replacing import replaced

if TYPE_CHECKING:
    from lm_eval_moe.recording import ExpectedRow, Recorder, RowUse, Span
    from lm_eval_moe.recording.sums import SegmentSums

__all__ = ["CaptureRequest", "Captured", "sums_by_row"]


@dataclass(frozen=True)
class CaptureRequest:
    """What to record.

    Attributes:
        keys: The requests of which a record is kept; None: all.
        arrays: The arrays that records hold.
        changes: Whether every steered router is also asked for its selection without steering.
        languages: Of tasks by name, None where it is not known; what decides which interventions apply to a request.
            Tasks that are not named here have the language that the model's parallel data files say.
    """

    keys: frozenset[RequestKey] | None = None
    arrays: frozenset[str] = frozenset(ARRAYS)
    changes: bool = False
    languages: Mapping[str, str | None] = field(default_factory=dict)

    def wants(self, key: RequestKey | None) -> bool:
        """Whether a request's record is kept; rows that are nobody's have no key."""
        return key is not None and (self.keys is None or key in self.keys)


class Captured:
    """What was recorded of the requests that ran under one `CaptureRequest`.

    Args:
        request: The capture request.

    Attributes:
        request: The same.
        records: By request: one record, or one a window.
        steered_pairs: By task, the (token, layer) pairs of its requests at which steering acted, whether the answers
            were computed or recalled.
        noting: The records of the requests that run for the response cache, by plan, request and window.
    """

    def __init__(self, request: CaptureRequest | None = None) -> None:
        self.request = request or CaptureRequest()
        self.records: RecordStore[RequestKey] = RecordStore()
        self.steered_pairs: Counter[str] = Counter()
        self.noting: dict[tuple[int, RequestKey | None, int], RoutingRecord] | None = None

    def keep(self, key: RequestKey, window: int, record: RoutingRecord, plan: int = 0) -> None:
        """Keep the record of a request, or of one window of it; of another plan than the one in force, only note it."""
        if not plan:
            self.records.add(key, record)
        if self.noting is not None:
            self.noting[plan, key, window] = record

    def collect(
        self,
        span: Span | None,
        rows: Sequence[ExpectedRow],
        sums_of: Callable[[list[int]], Iterable[SegmentSums]] | None,
        places: Callable[[int, RowUse, Span], Sequence[int]],
        thinking: Callable[[int], int | None] = lambda row: None,
    ) -> None:
        """Keep the records of the wanted requests of a batch.

        Args:
            span: The captured one; None: nothing is kept.
            rows: Its rows.
            sums_of: Returns what was recorded of some of them, by number, segment by segment; None: nothing was.
            places: Returns, among a row's segments, the places of those that make up a span of one of its uses.
            thinking: Returns after how many generated tokens a row's thinking ended (see `RoutingRecord`).
        """
        row_numbers = [
            row for row, expected in enumerate(rows) if any(self.request.wants(use.key) for use in expected.uses)
        ]
        if span is None or sums_of is None or not row_numbers:
            return
        for row, sums in zip(row_numbers, sums_of(row_numbers), strict=True):
            for use in rows[row].uses:
                if use.key is not None and self.request.wants(use.key):
                    span_places, all_places = places(row, use, span), places(row, use, "all")
                    record = sums.take(span_places, all_places, self.request.arrays, thinking(row))
                    self.keep(use.key, use.window, record, rows[row].plan)

    def record(self, key: RequestKey) -> RoutingRecord | None:
        """Return the record of a request, pooled over its windows, or None."""
        parts = self.records.get(key)
        return RoutingRecord.pooled(parts) if parts else None

    def clear(self) -> None:
        """Forget all records and counts."""
        self.records.clear()
        self.steered_pairs.clear()

    @contextmanager
    def noted(self) -> Iterator[Mapping[tuple[int, RequestKey | None, int], RoutingRecord]]:
        """Yield the records that come inside the ``with`` block, by plan, request and window."""
        noting: dict[tuple[int, RequestKey | None, int], RoutingRecord] = {}
        with replaced(self, "noting", noting):
            yield noting


def sums_by_row(
    recorder: Recorder | None, paths: Sequence[Sequence[int]]
) -> Callable[[list[int]], Iterable[SegmentSums]] | None:
    """Return what `Captured.collect` asks for, of rows whose segments a recorder of this process summed.

    Args:
        recorder: The recorder, if there was anything to record.
        paths: The segments of each row.
    """
    return None if recorder is None else lambda rows: recorder.sums_of([paths[row] for row in rows])
