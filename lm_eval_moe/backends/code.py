"""The hash of a model's own code, which no library version identifies."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from lm_eval_moe.identity.file_hashes import hash_of_files
from lm_eval_moe.identity.sources import source_files

__all__ = ["hash_of_code"]

_BY_VERSION = ("torch", "transformers", "vllm", "peft", "accelerate", "lm_eval", "lm_eval_moe", "builtins")
"""Packages whose code is identified by their version."""


def hash_of_code(things: Iterable[object]) -> str | None:
    """Return a hash of the source files of the classes of modules, tokenizers and the like; None if there is none."""
    classes = {type(thing) for thing in things}
    files = {file for kind in classes for base in kind.__mro__ for file in _files_of(base)}
    return hash_of_files(sorted(files)) if files else None


def _files_of(kind: type) -> Iterator[Path]:
    package = kind.__module__.partition(".")[0]
    if package in _BY_VERSION or package in sys.stdlib_module_names:
        return
    try:
        file = Path(inspect.getfile(kind))
    except (TypeError, OSError):  # defined in a session without a file: its weights and config still tell
        return
    yield from source_files(file)
    if package == "transformers_modules":  # its neighbours are what a repository's code imports
        yield from file.parent.glob("*.py")
