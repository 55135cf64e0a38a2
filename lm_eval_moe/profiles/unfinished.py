"""A profile in the making, on disk, so that a run that was cut off goes on where it was.

Its file is one of frames: first the head, which says how the profile is made, then for every row its item and arrays.
Where the rows up to some document are complete, a frame says how many documents were taken; it may hold sums instead of
the rows before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.errors import UserError
from lm_eval_moe.files import GrowingFile, write_whole
from lm_eval_moe.identity import Identity
from lm_eval_moe.profiles.columns import ArrayColumn
from lm_eval_moe.profiles.frames import FrameArrays, pack_frame, read_frames
from lm_eval_moe.profiles.header import ProfileItem

__all__ = [
    "RowsOnDisk",
    "Unfinished",
    "forget_unfinished",
    "read_unfinished",
    "refuse_older",
    "unfinished_path",
    "write_unfinished",
]

_FORMAT, _SCHEMA_VERSION = "lm-eval-moe unfinished profile", 3
_WHAT = "unfinished profile"
_FIX = "start over with --restart"


@dataclass(frozen=True)
class Unfinished:
    """What a file of an unfinished profile says.

    Attributes:
        settings: How it is made, JSON-ready.
        identity: Everything else that determines the result.
        done: Documents taken so far.
        steered: The (token, layer) pairs of theirs at which steering acted.
        sums: What they add up to, where rows are pooled.
        end: Bytes of the file up to there; what follows them is of documents that have to be taken again.
    """

    settings: Mapping[str, Any]
    identity: Identity
    done: int = 0
    steered: int = 0
    sums: Mapping[str, NDArray[Any]] | None = None
    end: int = 0


def unfinished_path(path: Path) -> Path:
    """Return the file of a profile to be while it is not finished."""
    return path.with_name(f".{path.stem}.unfinished.profile")


def refuse_older(path: Path) -> None:
    """Refuse to begin a profile that an older version has begun already.

    Args:
        path: Of the profile to be.

    Raises:
        UserError: There is a file of such a version, which cannot be resumed.
    """
    older = _older_path(path)
    if older.exists():
        raise UserError(
            "was started by an older version of lm-eval-moe, and this one cannot resume it",
            fix=f"let that version finish it, or {_FIX}",
            where=str(older),
        )


def forget_unfinished(path: Path) -> None:
    """Remove what there is of a profile in the making, older versions' files included.

    Args:
        path: Of the profile.

    Raises:
        UserError: It cannot be removed.
    """
    for file in (unfinished_path(path), _older_path(path)):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            problem = f"cannot be removed: {error.strerror or error}"
            raise UserError(problem, fix="remove it: it is no longer needed", where=str(file)) from error


def _older_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.unfinished.safetensors")


def write_unfinished(path: Path, state: Unfinished) -> int:
    """Write a file without rows; it is replaced whole or not at all. Return its bytes.

    Raises:
        UserError: It cannot be written.
    """
    head = {
        "format": _FORMAT,
        "schema_version": _SCHEMA_VERSION,
        "settings": state.settings,
        "identity": state.identity.to_dict(),
    }
    parts = [*pack_frame(head), *pack_frame({"done": state.done, "steered": state.steered}, state.sums)]
    write_whole(path, parts, _WHAT)
    return sum(len(part) for part in parts)


def read_unfinished(path: Path) -> Unfinished:
    """Read a file up to its last frame that says how many documents were taken; its rows are not kept.

    Raises:
        UserError: It is not such a file, or its beginning is damaged.
    """
    try:
        with path.open("rb") as file:
            frames = read_frames(file)
            head = next(frames).head
            if (head["format"], head["schema_version"]) != (_FORMAT, _SCHEMA_VERSION):
                raise ValueError(f"it is of format {head['format']!r:.60}, version {head['schema_version']!r:.60}")
            last = next(frame for frame in frames if "done" in frame.head)
            for frame in frames:
                last = frame if "done" in frame.head else last
            sums = {name: last.arrays.read(file, name) for name in last.arrays.places} or None
            identity = Identity.from_dict(head["identity"])
            documents, steered = int(last.head["done"]), int(last.head["steered"])
            return Unfinished(head["settings"], identity, documents, steered, sums, last.end)
    except StopIteration:
        raise UserError("cannot be resumed: its beginning is damaged", fix=_FIX, where=str(path)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot be resumed: {error}", fix=_FIX, where=str(path)) from error


class RowsOnDisk:
    """The rows of an unfinished profile, of which none stays in memory.

    Args:
        path: The file, written by `write_unfinished`.
        state: What it says.

    Raises:
        UserError: It cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path, state: Unfinished) -> None:
        self._path, self._done = path, state.done
        self._file = GrowingFile(path, state.end, _WHAT)

    def add(self, item: ProfileItem, row: Mapping[str, NDArray[Any]]) -> None:
        """Append a row.

        Args:
            item: What it is of.
            row: Its arrays by name; all rows have the same ones, of the same shapes.

        Raises:
            UserError: The file cannot be written.
        """
        self._file.append(pack_frame({"item": item.to_dict()}, row))

    def save(self, documents: int, steered: int, *, to_disk: bool) -> None:
        """Let the rows so far outlive this process.

        Args:
            documents: How many documents they are of, with those that have no row.
            steered: The (token, layer) pairs of theirs at which steering acted.
            to_disk: Whether they shall outlive the system, too.

        Raises:
            UserError: The file cannot be written.
        """
        self._file.append(pack_frame({"done": documents, "steered": steered}))
        self._file.save(to_disk=to_disk)
        self._done = documents

    def content(self) -> tuple[list[ProfileItem], dict[str, ArrayColumn]]:
        """Return the items of all saved rows, and their arrays, which are read as they are asked for.

        Raises:
            UserError: The file is not as it was written.
        """
        items: list[ProfileItem] = []
        rows: list[FrameArrays] = []
        documents = end = 0
        for frame in read_frames(self._file.file):
            documents, end = frame.head.get("done", -1), frame.end
            if "item" in frame.head:
                items.append(ProfileItem(**frame.head["item"]))
                rows.append(frame.arrays)
        if (documents, end) != (self._done, self._file.file.seek(0, 2)):
            raise self._changed()
        return items, {name: self._column(name, rows) for name in (rows[0].places if rows else ())}

    def close(self) -> None:
        """Let others write to the file."""
        self._file.close()

    def _column(self, name: str, rows: Sequence[FrameArrays]) -> ArrayColumn:
        kinds = {row.places[name].dtype for row in rows}  # counts of several windows have more bytes
        shape = rows[0].places[name].shape

        def parts() -> Iterator[NDArray[Any]]:
            for row in rows:
                try:
                    yield row.read(self._file.file, name)
                except ValueError as error:
                    raise self._changed() from error

        return ArrayColumn(np.result_type(*kinds), (len(rows), *shape), parts)

    def _changed(self) -> UserError:
        return UserError(
            "has changed since it was written: another process changed it, or the disk is damaged",
            fix="run the same command again",
            where=str(self._path),
        )
