"""What files and data sets of texts have in common: they are read through and checked before any model is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

from lm_eval_moe.errors import UserError
from lm_eval_moe.profiling.documents import Document
from lm_eval_moe.profiling.fields import Fields

__all__ = ["CheckedTexts"]


class CheckedTexts(ABC):
    """Texts in one language; empty ones are left out and keep their number.

    Args:
        where: What messages call it.
        language: Canonical tag.
        benchmark: What the items are of.
        task: The name of the file or data set.
        fields: The fields to read.
        limit: How many texts to take from the top.
    """

    unit: ClassVar[str]  # what is numbered
    at: ClassVar[str]  # the preposition that goes with it
    empty: ClassVar[tuple[str, str]]  # the problem and its remedy where there is no text
    count: int

    def __init__(self, where: str, language: str, benchmark: str, task: str, fields: Fields, limit: int | None) -> None:
        self.where, self.language, self.fields, self.limit = where, language, fields, limit
        self.parts: Mapping[str, Mapping[str, Any]] = {}
        self.benchmarks: tuple[str, ...] = (benchmark,)
        self.tasks: tuple[str, ...] = (task,)

    def __len__(self) -> int:
        return self.count

    @abstractmethod
    def all_texts(self) -> Iterator[tuple[str | None, str, int]]:
        """Yield each text that is there, the empty ones as well, with its item's name and its number."""

    def documents(self) -> Iterator[Document]:
        """Yield the texts from the top."""
        return (Document(item, self.benchmarks[0], self.tasks[0], text) for item, text, _ in self._texts())

    def checked(self, has_names: bool) -> Iterator[tuple[str, str]]:
        """Yield the names and texts of the items.

        Args:
            has_names: Whether items keep their names, which must then differ.

        Raises:
            UserError: There is no text, or a name occurs twice.
        """
        numbers: dict[str, int] = {}
        item = None
        for item, text, number in self._texts():
            if has_names and self.fields.id is not None and numbers.setdefault(item, number) != number:
                raise UserError(
                    f"{self.fields.id!r} is {item!r}, as {self.at} {self.unit} {numbers[item]}",
                    fix="an item has one text per language: with --id_field, name a field that differs from text to "
                    "text",
                    where=f"{self.where}: {self.unit} {number}",
                )
            yield item, text
        if item is None:
            problem, fix = self.empty
            raise UserError(problem, fix=fix, where=self.where)

    def _texts(self) -> Iterator[tuple[str, str, int]]:
        there = (entry for entry in self.all_texts() if entry[1].strip())
        return ((name or f"{self.unit}:{number}", text, number) for name, text, number in islice(there, self.limit))
