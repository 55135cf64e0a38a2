"""Records by key, of which only so much is held in memory: the rest lies in a temporary file without a name."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import fields
from sys import getsizeof
from typing import IO, TypeVar

from lm_eval_moe.errors import UserError
from lm_eval_moe.recording.packing import pack, unpack
from lm_eval_moe.routing_record import RoutingRecord

__all__ = ["RecordStore"]

K = TypeVar("K", bound=Hashable)
_HELD_BYTES = 8 * 2**20


class RecordStore(Mapping[K, list[RoutingRecord]]):
    """The records of every key, in the order in which they were added.

    A key's list is made again each time it is asked for; `add` is what adds to it.

    Args:
        held_bytes: How much the records may take in memory. Further ones go to the file, which the system removes
            with the process, however that ends.
    """

    def __init__(self, held_bytes: int = _HELD_BYTES) -> None:
        self._room = self._held_bytes = held_bytes
        self._places: dict[K, list[RoutingRecord | tuple[int, int]]] = {}
        self._file: IO[bytes] | None = None
        self._end = 0

    def add(self, key: K, record: RoutingRecord) -> None:
        """Add a record to a key's.

        Raises:
            UserError: The temporary file cannot be written.
        """
        size = sum(getsizeof(getattr(record, field.name)) for field in fields(record))
        places = self._places.setdefault(key, [])
        if size <= self._room:
            self._room -= size
            places.append(record)
        else:
            self._room = 0  # from here on all go the same way
            places.append(self._written(pack(record)))

    def _written(self, data: bytes) -> tuple[int, int]:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="lm-eval-moe-")  # noqa: SIM115 - open as long as this is
            self._file.seek(self._end)
            self._file.write(data)
        except OSError as error:
            raise UserError(
                f"the routing records do not fit into the temporary folder: {error.strerror or error}",
                fix="free some space there, or set TMPDIR to another folder",
                where=tempfile.gettempdir(),
            ) from error
        place = (self._end, len(data))
        self._end += len(data)
        return place

    def __getitem__(self, key: K) -> list[RoutingRecord]:
        return [place if isinstance(place, RoutingRecord) else self._read(*place) for place in self._places[key]]

    def _read(self, start: int, length: int) -> RoutingRecord:
        assert self._file is not None
        self._file.seek(start)
        record = unpack(self._file.read(length))
        assert record is not None
        return record

    def __iter__(self) -> Iterator[K]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def clear(self) -> None:
        """Forget all records, and give the file's room back."""
        self._places.clear()
        self._room, self._end = self._held_bytes, 0
        if self._file is not None:
            self._file.close()
            self._file = None
