"""The entries on disk: one SQLite file, safe for several processes, in which nothing damaged is trusted."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lm_eval_moe.errors import RoutingWarning, UserError
from lm_eval_moe.recording import RoutingRecord
from lm_eval_moe.recording.packing import pack, unpack

__all__ = ["ResponseCache", "StoredAnswer"]

_APPLICATION, _VERSION = 0x4D6F4563, 1  # "MoEc"
_TABLE = (
    "CREATE TABLE entries (key BLOB PRIMARY KEY, answer TEXT NOT NULL, record BLOB NOT NULL, digest BLOB NOT NULL) "
    "WITHOUT ROWID"
)
"""As SQLite keeps it; another version has another, if only by a comment in it."""

_SUFFIX = ".moe.sqlite"
_BUSY_SECONDS = 120
_AT_ONCE = 500  # parameters of one statement

_NOT_THE_FILE = frozenset(
    [
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_AUTH,
    ]
)
"""What SQLite says of the disk, of memory or of other processes; any other error is the content's."""

_SHORT = frozenset([sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS, sqlite3.SQLITE_IOERR_DATA])
"""What looks like the disk's, and is the content's."""

T = TypeVar("T")


@dataclass(frozen=True)
class StoredAnswer:
    """A request's answer and its routing.

    Attributes:
        answer: As JSON holds it; a pair is a list.
        record: Of the request, or of one window of it; None where it was not wanted.
    """

    answer: Any
    record: RoutingRecord | None


class ResponseCache:
    """Entries by key, in one file that several processes may use at once.

    A file that turns out to be damaged, when it is opened or at any time later, is set aside with a warning, and a new
    one takes its place: what it held is computed again.

    Args:
        path: Of the file; ``.moe.sqlite`` is added, so that no other cache is ever taken for one of these.

    Raises:
        UserError: The file cannot be made, or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(f"{path}{_SUFFIX}") if not str(path).endswith(_SUFFIX) else Path(path)
        self.hits = self.misses = 0
        self._connection: sqlite3.Connection | None = None
        self._opened_file: tuple[int, int] | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        self._do(lambda _: None)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with the file; where it turns out to be damaged, do it again with a new one.

        Raises:
            UserError: The disk, or another process, does not let us.
        """
        for renewed in (False, True):
            try:
                if self._was_replaced():
                    self.close()
                if self._connection is None:
                    self._connection = self._open()
                return work(self._connection)
            except (OSError, sqlite3.Error, UnicodeDecodeError) as error:  # the last of SQLite's damaged messages
                self.close()
                if renewed or not self._is_damage(error):
                    raise self._unusable(error) from error
                try:
                    self._make_way(error)
                except OSError as refusal:
                    raise self._unusable(refusal) from error
        raise AssertionError("the second attempt returns or raises")

    def _open(self) -> sqlite3.Connection:
        self._opened_file = None
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.text_factory = bytes  # damaged text need not be UTF-8
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
            is_new = self._is_new(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            if is_new:  # at once: another process sees all of it, or nothing
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_TABLE.replace("TABLE", "TABLE IF NOT EXISTS", 1))
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {_VERSION}")
                connection.execute("COMMIT")
            self._opened_file = self._file_there()
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Whether nothing is in a file; one without all our marks is damaged, or else a sound one that is not ours."""
        tables = connection.execute("SELECT sql FROM sqlite_master").fetchall()
        if not tables:
            return True
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        marks = [application == _APPLICATION, version == _VERSION, tables == [(_TABLE.encode(),)]]
        if sum(marks) < 2 and connection.execute("PRAGMA quick_check").fetchall() == [(b"ok",)]:
            raise UserError(
                "the file is not a response cache of this version", fix="give another path", where=str(self.path)
            )
        if not all(marks):
            raise _DamagedError("its header is not that of a response cache")
        return False

    def _file_there(self) -> tuple[int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _was_replaced(self) -> bool:
        """Whether another process, or the user, has put the file that was opened out of the way meanwhile."""
        return self._opened_file is not None and self._file_there() != self._opened_file

    def _is_damage(self, error: Exception) -> bool:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:
            return isinstance(error, (_DamagedError, UnicodeDecodeError))
        if code & 0xFF == sqlite3.SQLITE_READONLY:  # by a byte in its header, if not by its permissions
            return os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK)
        return code in _SHORT or code & 0xFF not in _NOT_THE_FILE

    def _make_way(self, error: Exception) -> None:
        """Set the file aside, unless that has been done."""
        if self._was_replaced():
            return
        aside = self.path.with_name(f"{self.path.name}.damaged")
        self.path.replace(aside)
        for end in ("-wal", "-shm"):
            Path(f"{self.path}{end}").unlink(missing_ok=True)
        warnings.warn(
            f"the response cache {self.path} is damaged ({error}): it has been renamed to {aside.name}, and its "
            "answers are computed again",
            RoutingWarning,
            stacklevel=4,
        )

    def get(self, keys: Sequence[bytes]) -> dict[bytes, StoredAnswer]:
        """Return the entries that there are; damaged ones are dropped.

        Raises:
            UserError: The file cannot be read, for example because another process holds it.
        """
        return self._do(lambda connection: self._get(connection, keys))

    def _get(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, StoredAnswer]:
        entries: dict[bytes, StoredAnswer] = {}
        damaged: list[bytes] = []
        for start in range(0, len(keys), _AT_ONCE):
            part = keys[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            query = f"SELECT key, answer, record, digest FROM entries WHERE key IN ({marks})"
            for key, answer, record, digest in connection.execute(query, tuple(part)).fetchall():
                try:
                    if _digest(key, answer, record) != digest:
                        raise ValueError("its digest differs")
                    entries[key] = StoredAnswer(json.loads(answer), unpack(record))
                except (ValueError, TypeError):  # None or a number where bytes should be, too
                    damaged.append(key)
        if damaged:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM entries WHERE key = ?", [(key,) for key in damaged])
            connection.execute("COMMIT")
            warnings.warn(
                f"{len(damaged)} damaged entries of the response cache {self.path} are computed again",
                RoutingWarning,
                stacklevel=4,
            )
        return entries

    def put(self, entries: Mapping[bytes, StoredAnswer]) -> None:
        """Keep entries, all of them or, if the process is killed meanwhile, none.

        Raises:
            UserError: The file cannot be written to, for example because the disk is full.
        """
        rows = []
        for key, entry in entries.items():
            answer, record = json.dumps(entry.answer), pack(entry.record)
            rows.append((key, answer, record, _digest(key, answer.encode(), record)))

        def keep(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
            connection.execute("COMMIT")

        self._do(keep)

    def close(self) -> None:
        """Close the file, without what has not been committed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _unusable(self, error: Exception) -> UserError:
        return UserError(
            f"the response cache cannot be used: {error}",
            fix="give --use_cache a path on a local disk that is writable and has room; the answers already in the "
            "file are kept",
            where=str(self.path),
        )


class _DamagedError(sqlite3.DatabaseError):
    """Damage that SQLite does not see."""


def _digest(key: bytes, answer: bytes, record: bytes) -> bytes:
    return hashlib.sha256(key + hashlib.sha256(answer).digest() + hashlib.sha256(record).digest()).digest()
