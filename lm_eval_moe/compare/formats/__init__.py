"""A leaderboard as text for the terminal, Markdown, CSV, JSON or HTML: one module a format.

A new format is one new module here, ``as_NAME.py``, or in a plug-in, that calls `register`; see docs/extending.md. The
command's help only lists the files, since to import them takes time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_moe.compare.formats._base import FORMATS, SUFFIXES, Format, register
from lm_eval_moe.discovery import import_siblings
from lm_eval_moe.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lm_eval_moe.compare.board import Board

__all__ = ["FORMATS", "Format", "format_of", "register", "render"]


def format_of(path: Path) -> Format:
    """Return the format that a file's name asks for.

    Raises:
        UserError: Its suffix is of none.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(
            f"the suffix {suffix or 'of a name without one'!r} belongs to no format{did_you_mean(suffix, SUFFIXES)}",
            fix=f"end the name in {', '.join(SUFFIXES)}",
            where=f"--output {path}",
        )
    return SUFFIXES[suffix]


def render(board: Board, name: str, *, title: str = "Leaderboard") -> str:
    """Return the leaderboard as text in a format."""
    return FORMATS[name].render(board, title)


import_siblings(__name__, __path__)
