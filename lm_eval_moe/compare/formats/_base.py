"""What a format of the leaderboard is, and the registries of formats and of their suffixes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.discovery import Registry

if TYPE_CHECKING:
    from lm_eval_moe.compare.board import Board

__all__ = ["FORMATS", "SUFFIXES", "Format", "register"]


@dataclass(frozen=True)
class Format:
    """A way to write the leaderboard.

    Attributes:
        name: What ``--format`` calls it.
        render: From the leaderboard and its title to text.
        suffixes: Of the files that ``--output`` writes in it, in small letters with their dot.
        show: Prints the leaderboard, with intervals or without; None where the text is printed as it is.
    """

    name: str
    render: Callable[[Board, str], str]
    suffixes: tuple[str, ...] = ()
    show: Callable[[Board, bool], None] | None = None

    def print(self, board: Board, title: str, *, intervals: bool = False) -> None:
        """Write the leaderboard to standard output."""
        if self.show is not None:
            self.show(board, intervals)
        else:
            sys.stdout.write(self.render(board, title))


FORMATS: Registry[Format] = Registry("format")
"""The formats by name."""

SUFFIXES: Registry[Format] = Registry("suffix")
"""The same formats by the suffixes of their files."""


def register(form: Format) -> None:
    """Add a format.

    Raises:
        UserError: Another format has the name or a suffix.
    """
    FORMATS.add(form.name, form, form.render)
    for suffix in form.suffixes:
        SUFFIXES.add(suffix, form, form.render)
