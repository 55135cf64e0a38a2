"""Texts from a file: one a line, or JSON lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.profiling.documents import Document
from lm_eval_moe.profiling.fields import Fields

__all__ = ["TextFile"]

_BLOCK = 1 << 20


class TextFile:
    """A file of texts in one language; blank lines are left out and keep their number.

    The file is read through once, to count and check its texts, before any model is loaded.

    Args:
        path: JSON lines if it ends in ``.jsonl``, otherwise one text a line.
        language: Canonical tag.
        benchmark: What its items are of.
        fields: The fields of JSON lines.
        limit: How many texts to take from the top.
        named: Whether items keep their names, which must then differ.

    Raises:
        UserError: It cannot be read, is not UTF-8, or a line is not as it should be.
    """

    def __init__(
        self, path: Path, language: str, benchmark: str, fields: Fields, *, limit: int | None, named: bool = True
    ) -> None:
        self.path, self.language, self.fields, self.limit = path, language, fields, limit
        self.parts: Mapping[str, Mapping[str, Any]] = {}
        self.benchmarks: tuple[str, ...] = (benchmark,)
        self.tasks: tuple[str, ...] = (path.name,)
        self._json = path.suffix == ".jsonl"
        self._sha256 = self._hash()
        self._count = self._checked(named)

    def __len__(self) -> int:
        return self._count

    def documents(self) -> Iterator[Document]:
        """Yield the texts from the top."""
        return (Document(item, self.benchmarks[0], self.tasks[0], text) for item, text, _ in self._texts())

    def describe(self) -> dict[str, Any]:
        """Return the file's name and hash, and what was read of it."""
        fields = {"text_field": self.fields.text, "id_field": self.fields.id} if self._json else {}
        return {
            "kind": "file",
            "name": self.path.name,
            "sha256": self._sha256,
            "benchmark": self.benchmarks[0],
            **fields,
        }

    def _texts(self) -> Iterator[tuple[str, str, int]]:
        return islice(self._all_texts(), self.limit)

    def _all_texts(self) -> Iterator[tuple[str, str, int]]:
        with self.path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                text, name = self._parsed(line, number) if line.strip() else ("", None)
                if text.strip():
                    yield name or f"line:{number}", text, number

    def _parsed(self, line: str, number: int) -> tuple[str, str | None]:
        if not self._json:
            return line.rstrip("\n"), None
        where = f"{self.path}: line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"is no JSON: {error}", fix="write one JSON object a line", where=where) from error
        return self.fields.read(record, where)

    def _hash(self) -> str:
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            raise UserError(
                f"cannot be read: {error.strerror or error}",
                fix="give LANGUAGE=FILE, with a text file or JSON lines",
                where=str(self.path),
            ) from error
        return digest.hexdigest()

    def _checked(self, named: bool) -> int:
        count, seen = 0, dict[str, int]()
        try:
            for item, _, number in self._texts():
                count += 1
                if named and self.fields.id is not None and seen.setdefault(item, number) != number:
                    raise UserError(
                        f"{self.fields.id!r} is {item!r} as on line {seen[item]}",
                        fix="an item has one text a language: give a field that differs with --id_field",
                        where=f"{self.path}: line {number}",
                    )
        except UnicodeDecodeError as error:
            raise UserError(f"is not UTF-8: {error}", fix="convert it to UTF-8", where=str(self.path)) from error
        if not count:
            raise UserError("holds no text", fix="give a file with at least one text", where=str(self.path))
        return count
