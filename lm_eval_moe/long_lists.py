"""Lists that are too long for a sentence: there they are counted, and stand in full where the reader asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["LongList", "Note", "counted", "folded", "in_full"]

_MOST = 8  # words of a list in a sentence


@dataclass(frozen=True)
class LongList:
    """A list that the sentence before it only counts; a page folds it up, a terminal leaves it out.

    Attributes:
        title: What is listed.
        words: The list.
    """

    title: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole list as a sentence."""
        return f"{self.title}: {', '.join(self.words)}."


Note = str | LongList
"""A sentence to be read with a table, or the list that the sentence before it counts."""


def counted(words: Sequence[str], noun: str) -> str:
    """Write ``de, es and sw``, or of more than eight ``40 languages, am to zu``: how many, the first and the last."""
    if len(words) > _MOST:
        return f"{len(words)} {noun}, {words[0]} to {words[-1]}"
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def folded(title: str, words: Sequence[str]) -> list[LongList]:
    """Return what `counted` leaves out: the whole list where it is long, else nothing."""
    return [LongList(title, tuple(words))] if len(words) > _MOST else []


def in_full(notes: Iterable[Note]) -> list[str]:
    """Return notes as sentences, with all lists."""
    return [note if isinstance(note, str) else note.text for note in notes]
