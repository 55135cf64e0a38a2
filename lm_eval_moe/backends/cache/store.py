"""The entries on disk: one SQLite file, safe for several processes, in which nothing damaged is trusted."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_moe.capture import RoutingRecord
from lm_eval_moe.capture.packing import pack, unpack
from lm_eval_moe.errors import RoutingWarning, UserError

__all__ = ["Entry", "ResponseCache"]

_APPLICATION, _VERSION = 0x4D6F4563, 1  # "MoEc"
_SUFFIX = ".moe.sqlite"
_BUSY_SECONDS = 120
_AT_ONCE = 500  # parameters of one statement


@dataclass(frozen=True)
class Entry:
    """A request's answer and its routing.

    Attributes:
        answer: As JSON holds it; a pair is a list.
        record: Of the request, or of one window of it; None where it was not wanted.
    """

    answer: Any
    record: RoutingRecord | None


class ResponseCache:
    """Entries by key, in one file that several processes may use at once.

    Args:
        path: Of the file; ``.moe.sqlite`` is added, so that no other cache is ever taken for one of these.

    Raises:
        UserError: The file cannot be made, or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(f"{path}{_SUFFIX}") if not str(path).endswith(_SUFFIX) else Path(path)
        self.hits = self.misses = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = self._opened()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._set_aside(error)
                self._connection = self._opened()
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"the response cache cannot be used: {error}",
                fix="give --use_cache a path on a local disk that can be written to",
                where=str(self.path),
            ) from error

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and (application, version) != (_APPLICATION, _VERSION):
            connection.close()
            raise UserError(
                "the file is no response cache of this version", fix="give another path", where=str(self.path)
            )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, answer TEXT NOT NULL, record BLOB NOT NULL, "
            "digest BLOB NOT NULL) WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        return connection

    def _set_aside(self, error: sqlite3.Error) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        self.path.replace(aside)
        for end in ("-wal", "-shm"):
            Path(f"{self.path}{end}").unlink(missing_ok=True)
        warnings.warn(
            f"the response cache {self.path} is damaged ({error}): it is kept as {aside.name}, all is computed anew",
            RoutingWarning,
            stacklevel=4,
        )

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """Return the entries that there are; damaged ones are dropped."""
        found: dict[bytes, Entry] = {}
        damaged: list[bytes] = []
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            query = f"SELECT key, answer, record, digest FROM entries WHERE key IN ({marks})"
            for key, answer, record, digest in self._execute(query, part):
                try:
                    if _digest(key, answer, record) != digest:
                        raise ValueError("its digest differs")
                    found[key] = Entry(json.loads(answer), unpack(record))
                except (ValueError, TypeError):
                    damaged.append(key)
        if damaged:
            self._execute("BEGIN IMMEDIATE")
            self._connection.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in damaged])
            self._execute("COMMIT")
            warnings.warn(
                f"{len(damaged)} damaged entries of the response cache {self.path} are computed anew",
                RoutingWarning,
                stacklevel=2,
            )
        return found

    def put(self, entries: Mapping[bytes, Entry]) -> None:
        """Keep entries, all of them or, if the process is killed meanwhile, none.

        Raises:
            UserError: The file cannot be written to, for example because the disk is full.
        """
        rows = []
        for key, entry in entries.items():
            answer, record = json.dumps(entry.answer), pack(entry.record)
            rows.append((key, answer, record, _digest(key, answer, record)))
        self._execute("BEGIN IMMEDIATE")
        try:
            self._connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise self._unusable(error) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _execute(self, statement: str, values: Iterable[Any] = ()) -> Iterable[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, tuple(values)).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> UserError:
        return UserError(
            f"the response cache cannot be used: {error}",
            fix="make room, or delete the file; what is in the results so far is not lost otherwise",
            where=str(self.path),
        )


def _digest(key: bytes, answer: str, record: bytes) -> bytes:
    return hashlib.sha256(key + hashlib.sha256(answer.encode()).digest() + hashlib.sha256(record).digest()).digest()
