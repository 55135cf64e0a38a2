"""Hashes over every byte of files, remembered beside them by size and times, so that a second start reads nothing.

XXH3 of 128 bits: it is not made against forgers, and reads more than ten times as fast as SHA-256, a small part of the
time that loading weights takes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from lm_eval_moe.errors import UserError
from lm_eval_moe.files import write_json

__all__ = ["MEMORY", "hash_of_bytes", "hash_of_files", "sha256_of", "stamp_of"]

MEMORY = ".lm_eval_moe_hashes.json"
"""Name of the file beside hashed files that remembers their hashes."""

_BLOCK = 1 << 24
_SETTLED_SECONDS = 2.0
"""A file that changed later than this before it was read may change again within one tick of its time stamp."""


def hash_of_bytes(*blocks: bytes) -> str:
    """Return the hash of some bytes, in hexadecimal."""
    return xxhash.xxh3_128(b"".join(blocks)).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal, for files that others may check.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def hash_of_files(
    files: Sequence[Path], *, remember: bool = False, progress: Callable[[int], object] | None = None
) -> str:
    """Return one hash of the names and bytes of files, whatever their order.

    Args:
        files: The files; two of one name in different folders are fine.
        remember: Keep each file's hash beside it (where the folder cannot be written to: in the user's cache folder),
            and believe such a hash while the file's size, times and place on disk are the same.
        progress: Is told the bytes that were read.

    Raises:
        UserError: A file cannot be read.
    """
    memories: dict[Path, _Memory] = {}
    entries = []
    for path in files:
        try:
            if remember:
                memory = memories.setdefault(path.parent, _Memory(path.parent))
                entries.append([path.name, memory.hash_of(path, progress)])
            else:
                entries.append([path.name, _hash(path, progress)])
        except OSError as error:
            raise UserError(
                f"cannot be read: {error.strerror or error}", fix="give a file that can be read", where=str(path)
            ) from error
    for memory in memories.values():
        memory.save()
    return hash_of_bytes(json.dumps(sorted(entries)).encode())


def _hash(path: Path, progress: Callable[[int], object] | None) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if not size:  # cannot be mapped
            return digest.hexdigest()
        # Mapped as safetensors maps it: nothing is copied, and other threads go on meanwhile.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            for start in range(0, size, _BLOCK):
                with view[start : start + _BLOCK] as block:
                    digest.update(block)
                    if progress is not None:
                        progress(len(block))
    return digest.hexdigest()


class _Memory:
    """The remembered hashes of one folder's files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._place = self._place_of(folder)
        self._entries = self._load()
        self._changed = False

    def hash_of(self, path: Path, progress: Callable[[int], object] | None) -> str:
        before = stamp_of(path)
        entry = self._entries.get(path.name)
        if entry is not None and entry.get("stamp") == before and isinstance(entry.get("xxh3_128"), str):
            return str(entry["xxh3_128"])
        started = time.time()
        digest = _hash(path, progress)
        newest = max(path.stat().st_mtime, path.stat().st_ctime)
        if stamp_of(path) == before and newest < started - _SETTLED_SECONDS:
            self._entries[path.name] = {"stamp": before, "xxh3_128": digest}
            self._changed = True
        return digest

    def save(self) -> None:
        """Write what was learned; a folder that takes no file is not a reason to end a run."""
        if self._changed:
            try:
                write_json(self._place, self._entries, "memory of hashes")
            except UserError:
                return

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(self._place.read_bytes())
        except (OSError, ValueError):
            return {}  # hashed anew
        entries = content.items() if isinstance(content, dict) else ()
        return {name: entry for name, entry in entries if isinstance(entry, dict)}

    @staticmethod
    def _place_of(folder: Path) -> Path:
        if os.access(folder, os.W_OK):
            return folder / MEMORY
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return home / "lm_eval_moe" / f"{hash_of_bytes(str(folder.resolve()).encode())}.json"


def stamp_of(path: Path) -> list[int]:
    """Return what changes when a file's content does: size, times (the second cannot be set back), place on disk."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
