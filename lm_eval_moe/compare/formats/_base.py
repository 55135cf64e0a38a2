"""What a format of the leaderboard is, and the registry of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lm_eval_moe.compare.board import Board

__all__ = ["REGISTRY", "Format", "register"]


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


REGISTRY: dict[str, Format] = {}
"""The formats by name."""


def register(form: Format) -> None:
    """Add a format: a module of this folder does so where it is imported, and so may anybody's.

    Raises:
        ValueError: Another format has the name or a suffix.
    """
    for other in REGISTRY.values():
        if other.name == form.name or set(other.suffixes) & set(form.suffixes):
            raise ValueError(f"there is a format {other.name!r} ({', '.join(other.suffixes)}) already")
    REGISTRY[form.name] = form
