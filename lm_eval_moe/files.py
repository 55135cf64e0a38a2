"""Files that appear whole or not at all, and files that grow at their end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lm_eval_moe.errors import UserError

if sys.platform != "win32":
    import fcntl

__all__ = ["GrowingFile", "write_json", "write_whole"]


def write_whole(path: Path, content: str | bytes | Iterable[bytes | memoryview], what: str = "file") -> None:
    """Write a file in one step, so that a reader or a killed process never leaves half of it; its folder is made.

    Args:
        path: Where to write; what is there is replaced.
        content: Text is written as UTF-8; several parts one behind the other, each asked for when the one before it
            is written.
        what: What an error calls it.

    Raises:
        UserError: It cannot be written; what was there is still there.
    """
    data = content.encode() if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write the {what}: {error.strerror or error}",
            fix="choose a writable path, or free some space; what was there before is unchanged",
            where=str(path),
        ) from error
    finally:
        with suppress(OSError):  # it is not there any more, or never was
            partial.unlink()


def write_json(path: Path, content: Any, what: str = "file") -> None:
    """Write JSON as `write_whole` does; what JSON does not know is written as lm-eval writes it.

    Raises:
        UserError: It cannot be written.
    """
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False, default=_plain) + "\n", what)


class GrowingFile:
    """A file that is there already and grows at its end; no other process can write to it meanwhile.

    A killed process may leave half of what it wrote last: who reads the file must be able to tell.

    Args:
        path: The file.
        end: How many bytes of it to keep; what follows them is cut off.
        what: What an error calls it.

    Attributes:
        file: To be read from; what was appended is there after `save`.

    Raises:
        UserError: It cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path, end: int, what: str = "file") -> None:
        self.path, self._what = path, what
        try:
            self.file: IO[bytes] = path.open("r+b")
        except OSError as error:
            raise self._error(error) from error
        try:
            self._lock()
            self.file.truncate(end)
            self.file.seek(end)
        except OSError as error:
            self.close()
            raise self._error(error) from error
        except UserError:
            self.close()
            raise

    def append(self, parts: Iterable[bytes | memoryview]) -> None:
        """Add parts one behind the other.

        Raises:
            UserError: They cannot be written.
        """
        try:
            self.file.writelines(parts)
        except OSError as error:
            raise self._error(error) from error

    def save(self, *, to_disk: bool) -> None:
        """Give what was appended to the system, so that it outlives this process.

        Args:
            to_disk: Whether it shall outlive the system, too.

        Raises:
            UserError: It cannot be written.
        """
        try:
            self.file.flush()
            if to_disk:
                os.fsync(self.file.fileno())
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """Let others write to it."""
        with suppress(OSError):  # what could not be written was an error already
            self.file.close()

    def _lock(self) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another process is writing the {self._what}",
                    fix="wait until it has finished, or write to another folder",
                    where=str(self.path),
                ) from error
            except OSError:
                return  # a file system without locks

    def _error(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write the {self._what}: {error.strerror or error}",
            fix="choose a writable path, or free some space, and run the same command again",
            where=str(self.path),
        )


def _plain(value: Any) -> Any:
    """Return what stands for a NumPy number or a set; anything else as its text."""
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:
        return value.item()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
