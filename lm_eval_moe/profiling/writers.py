"""The content of a profile while documents come: a row per item on disk, or one pooled row, saved now and then."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from lm_eval_moe.profiles import ProfileItem
from lm_eval_moe.profiles.columns import ArrayColumn
from lm_eval_moe.profiles.unfinished import RowsOnDisk, Unfinished, write_unfinished
from lm_eval_moe.recording.profile_rows import PooledRow, row_of
from lm_eval_moe.routing_record import RoutingRecord

__all__ = ["Content", "Pace", "ProfileWriter", "RowsWriter", "SumsWriter"]

_SAVING_SHARE = 20
"""Saving takes at most about one part in so many of the time, however slow the disk is."""


@dataclass(frozen=True)
class Content:
    """What is written of documents.

    Attributes:
        items: One a row.
        arrays: Of all rows, by name.
        tokens: Of all rows together.
    """

    items: Sequence[ProfileItem]
    arrays: Mapping[str, NDArray[Any] | ArrayColumn]
    tokens: int


class ProfileWriter(Protocol):
    """What documents add up to, in the order in which they come."""

    def add(self, item: ProfileItem, record: RoutingRecord) -> None:
        """Take a document."""

    def save(self, documents: int, steered: int) -> None:
        """Let what is there outlive this process, if it is time to.

        Args:
            documents: How many documents it is of.
            steered: The (token, layer) pairs of theirs at which steering acted.
        """

    def content(self) -> Content:
        """Return what to write, once the last document was saved."""

    def close(self) -> None:
        """Let go of the file."""


class Pace:
    """When to save: every so many seconds, but more rarely where saving takes long.

    Args:
        seconds: Between two savings; 0: whenever it is asked.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is time to save."""
        pause = max(self._seconds, _SAVING_SHARE * self._took) if self._seconds else 0.0
        return time.monotonic() - self._last >= pause

    def __enter__(self) -> None:
        self._last = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        now = time.monotonic()
        self._last, self._took = now, now - self._last


class RowsWriter:
    """A row per item: each is written as it comes, and none is held.

    Rows outlive this process as soon as they are saved, and a crash of the system at the pace that was asked for.

    Args:
        path: The file of the unfinished profile.
        state: What it says; one that was not read from it is the beginning of a new file.
        pace: When to wait for the disk.
        extra: Which of the extra arrays to hold.

    Raises:
        UserError: The file cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path, state: Unfinished, pace: Pace, extra: Collection[str] = ()) -> None:
        self._pace, self._extra = pace, extra
        if not state.end:
            state = replace(state, end=write_unfinished(path, state))
        self._rows = RowsOnDisk(path, state)

    def add(self, item: ProfileItem, record: RoutingRecord) -> None:
        """Append a document's row."""
        self._rows.add(item, row_of(record, self._extra))

    def save(self, documents: int, steered: int) -> None:
        """Let the rows so far outlive this process."""
        if self._pace.due():
            with self._pace:
                self._rows.save(documents, steered, to_disk=True)
        else:
            self._rows.save(documents, steered, to_disk=False)

    def content(self) -> Content:
        """Return the items, and arrays that are read from the file when they are written."""
        items, arrays = self._rows.content()
        return Content(items, arrays, int(arrays["tokens"].load().sum()) if items else 0)

    def close(self) -> None:
        """Let go of the file."""
        self._rows.close()


class SumsWriter:
    """One row for all documents.

    Args:
        path: The file of the unfinished profile.
        state: What it says.
        pace: When to write the file again.
        row: The row.
    """

    def __init__(self, path: Path, state: Unfinished, pace: Pace, row: PooledRow) -> None:
        self._path, self._state, self._pace, self._row = path, state, pace, row
        if state.sums is not None:
            row.restore(state.sums)

    def add(self, item: ProfileItem, record: RoutingRecord) -> None:
        """Add a document to the row."""
        self._row.add(item, record)

    def save(self, documents: int, steered: int) -> None:
        """Write the sums so far, if it is time to."""
        if self._pace.due():
            with self._pace:
                write_unfinished(
                    self._path, replace(self._state, done=documents, steered=steered, sums=self._row.state())
                )

    def content(self) -> Content:
        """Return the one row."""
        items, arrays = self._row.profile()
        return Content(items, arrays, int(arrays["tokens"].sum()))

    def close(self) -> None:
        """Do nothing: no file is open."""
