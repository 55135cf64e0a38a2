"""What is profiled: documents of one language, one by one, and what is said about where they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Document", "Source"]


@dataclass(frozen=True)
class Document:
    """One item.

    Attributes:
        item: Names it across languages.
        benchmark: What the item is of.
        task: The lm-eval task, or the name of the file or data set.
        text: The text, or the prompt.
        continuation: What a choice adds to the prompt; None where there is only a text.
        windowed: Whether a text that is longer than the model takes is cut into windows; a prompt keeps its end.
        hashes: Of the texts that the item is known by, where they are others than ``text``.
    """

    item: str
    benchmark: str
    task: str
    text: str
    continuation: str | None = None
    windowed: bool = True
    hashes: tuple[str, ...] = ()


class Source(Protocol):
    """The documents of one language.

    Attributes:
        language: Canonical tag.
        benchmarks: What its items are of.
        tasks: The lm-eval tasks, or the name of the file or data set.
        parts: The tasks' part of the identity, by task; none for texts, which `describe` tells apart.
    """

    language: str
    benchmarks: tuple[str, ...]
    tasks: tuple[str, ...]
    parts: Mapping[str, Mapping[str, Any]]

    def __len__(self) -> int:
        """Return how many documents there are."""

    def documents(self) -> Iterator[Document]:
        """Yield the documents, every time in the same order."""

    def describe(self) -> dict[str, Any]:
        """Return where they come from, JSON-ready; equal only if the documents are."""
