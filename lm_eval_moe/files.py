"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import UserError

__all__ = ["write_json", "write_whole"]


def write_whole(path: Path, content: str | bytes | Sequence[bytes | memoryview], what: str = "file") -> None:
    """Write a file in one step, so that a reader or a killed process never leaves half of it; its folder is made.

    Args:
        path: Where to write; what is there is replaced.
        content: Text is written as UTF-8; several parts one behind the other.
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
        with suppress(OSError):  # where a folder of the path is a file, there is nothing to take away
            partial.unlink()
        raise UserError(
            f"cannot write the {what}: {error.strerror or error}",
            fix="choose a path that can be written to, or make room; what was there before is unchanged",
            where=str(path),
        ) from error


def write_json(path: Path, content: Any, what: str = "file") -> None:
    """Write JSON as `write_whole` does; what JSON does not know is written as lm-eval writes it.

    Raises:
        UserError: It cannot be written.
    """
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False, default=_plain) + "\n", what)


def _plain(value: Any) -> Any:
    """Return what stands for a NumPy number or a set; anything else as its text."""
    if hasattr(value, "item") and getattr(value, "size", 0) == 1:
        return value.item()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
