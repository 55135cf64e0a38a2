"""A leaderboard as text for the terminal, Markdown, CSV, JSON or HTML: one module a format.

A new format is one new module here, ``as_NAME.py``, that calls :func:`register`. It is imported when a leaderboard is
written: the command's help only lists the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_moe.compare.formats._base import REGISTRY, Format, register
from lm_eval_moe.discovery import import_siblings, module_names
from lm_eval_moe.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lm_eval_moe.compare.board import Board

__all__ = ["Format", "format_named", "format_names", "format_of", "register", "render"]


def format_names() -> list[str]:
    """Return the names of all formats, without importing those that are ours."""
    return sorted({*(module.removeprefix("as_") for module in module_names(__name__)), *REGISTRY})


def format_named(name: str) -> Format:
    """Return the format of a name of `format_names`."""
    return _formats()[name]


def format_of(path: Path) -> Format:
    """Return the format that a file's name asks for.

    Raises:
        UserError: Its suffix is of none.
    """
    suffix = path.suffix.lower()
    by_suffix = {suffix: form for form in _formats().values() for suffix in form.suffixes}
    if suffix not in by_suffix:
        raise UserError(
            f"the suffix {suffix or 'of a name without one'!r} is of no format{did_you_mean(suffix, by_suffix)}",
            fix=f"end the name in {', '.join(by_suffix)}",
            where=f"--output {path}",
        )
    return by_suffix[suffix]


def render(board: Board, name: str, *, title: str = "Leaderboard") -> str:
    """Return the leaderboard as text in a format."""
    return format_named(name).render(board, title)


def _formats() -> dict[str, Format]:
    import_siblings(__name__, __path__)
    return REGISTRY
