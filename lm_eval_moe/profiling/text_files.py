"""Texts from a file: one a line, or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.identity.file_hashes import sha256_of
from lm_eval_moe.profiling.checked_texts import CheckedTexts
from lm_eval_moe.profiling.fields import Fields

__all__ = ["TextFile"]


class TextFile(CheckedTexts):
    """A file of texts in one language.

    Args:
        path: JSON lines if it ends in ``.jsonl``, otherwise one text per line.
        language: Canonical tag.
        benchmark: What its items are of.
        fields: The fields of JSON lines.
        limit: How many texts to take from the top.
        named: Whether items keep their names, which must then differ.

    Raises:
        UserError: It cannot be read, is not UTF-8, or a line is not as it should be.
    """

    unit, at = "line", "on"
    empty = ("holds no text", "give a file with at least one text")

    def __init__(
        self, path: Path, language: str, benchmark: str, fields: Fields, *, limit: int | None, has_names: bool = True
    ) -> None:
        super().__init__(str(path), language, benchmark, path.name, fields, limit)
        self.path = path
        self._json = path.suffix == ".jsonl"
        self._sha256 = self._hash()
        self.count = sum(1 for _ in self.checked(has_names))

    def describe(self) -> dict[str, Any]:
        """Return the file's name and hash, and what was read of it."""
        fields = {"text_field": self.fields.text, "id_field": self.fields.id} if self._json else {}
        head = {"kind": "file", "name": self.path.name, "sha256": self._sha256}
        return {**head, "benchmark": self.benchmarks[0], **fields}

    def all_texts(self) -> Iterator[tuple[str | None, str, int]]:
        """Yield every line's text; those of JSON lines with their items' names."""
        try:
            with self.path.open(encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, 1):
                    text, name = self._parse(line, number) if line.strip() else ("", None)
                    yield name, text, number
        except UnicodeDecodeError as error:
            raise UserError(f"is not UTF-8: {error}", fix="convert it to UTF-8", where=self.where) from error

    def _parse(self, line: str, number: int) -> tuple[str, str | None]:
        if not self._json:
            return line.rstrip("\n"), None
        where = f"{self.where}: line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"is not JSON: {error}", fix="write one JSON object per line", where=where) from error
        return self.fields.read(record, where)

    def _hash(self) -> str:
        try:
            return sha256_of(self.path)
        except OSError as error:
            raise UserError(
                f"cannot be read: {error.strerror or error}",
                fix="give LANGUAGE=FILE, with a text file or JSON lines",
                where=self.where,
            ) from error
