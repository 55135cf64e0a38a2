"""Texts from a data set that the `datasets` library loads, from the hub or from a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.profiling.documents import Document
from lm_eval_moe.profiling.fields import Fields

__all__ = ["TextDataset", "parse_dataset"]

PREFIX = "hf:"


def parse_dataset(given: str) -> tuple[str, str | None, str]:
    """Return name, config and split of ``hf:NAME:CONFIG:SPLIT``; an empty config is the default one.

    Raises:
        UserError: It is not of that form.
    """
    parts = given.removeprefix(PREFIX).rsplit(":", 2)
    if len(parts) != 3 or not parts[0] or not parts[2]:
        raise UserError(
            f"{given!r} names no split of a data set",
            fix="write hf:NAME:CONFIG:SPLIT, e.g. en=hf:openlanguagedata/flores_plus:eng_Latn:dev; without a config "
            "hf:NAME::SPLIT",
            where="--texts",
        )
    return parts[0], parts[1] or None, parts[2]


class TextDataset:
    """A split of a data set in one language; empty texts are left out and keep their row's number.

    Args:
        given: ``hf:NAME:CONFIG:SPLIT``.
        language: Canonical tag.
        benchmark: What its items are of; None: the data set's name without its owner.
        fields: The fields to read.
        limit: How many texts to take from the top.
        named: Whether items keep their names, which must then differ.

    Raises:
        UserError: It cannot be loaded, or a record is not as it should be.
    """

    def __init__(
        self, given: str, language: str, benchmark: str | None, fields: Fields, *, limit: int | None, named: bool = True
    ) -> None:
        self.name, self.config, self.split = parse_dataset(given)
        self.language, self.fields, self.limit = language, fields, limit
        short = self.name.rstrip("/").rsplit("/", 1)[-1]
        self.parts: Mapping[str, Mapping[str, Any]] = {}
        self.benchmarks: tuple[str, ...] = (benchmark or short,)
        self.tasks: tuple[str, ...] = (short,)
        self._where = f"--texts {language}={given}"
        self._rows = self._loaded()
        self._count, self._sha256 = self._checked(named)

    def __len__(self) -> int:
        return self._count

    def documents(self) -> Iterator[Document]:
        """Yield the texts from the first row on."""
        return (Document(item, self.benchmarks[0], self.tasks[0], text) for item, text, _ in self._texts())

    def describe(self) -> dict[str, Any]:
        """Return which split was read, and a hash of its texts and names."""
        return {
            "kind": "dataset",
            "name": self.name,
            "config": self.config,
            "split": self.split,
            "sha256": self._sha256,
            "benchmark": self.benchmarks[0],
            "text_field": self.fields.text,
            "id_field": self.fields.id,
        }

    def _loaded(self) -> Any:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        try:
            return load_dataset(self.name, self.config, split=self.split)
        except (DatasetsError, ValueError, OSError) as error:
            raise UserError(
                f"the data set cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0]}",
                fix="check its name, config and split; write hf:NAME:CONFIG:SPLIT",
                where=self._where,
            ) from error

    def _texts(self) -> Iterator[tuple[str, str, int]]:
        found = 0
        for row, record in enumerate(self._rows):
            text, name = self.fields.read(record, f"{self._where}: row {row}")
            if text.strip():
                found += 1
                yield name or f"row:{row}", text, row
                if found == self.limit:
                    return

    def _checked(self, named: bool) -> tuple[int, str]:
        count, digest, seen = 0, hashlib.sha256(), dict[str, int]()
        for item, text, row in self._texts():
            count += 1
            digest.update(json.dumps([item, text]).encode())
            if named and self.fields.id is not None and seen.setdefault(item, row) != row:
                raise UserError(
                    f"{self.fields.id!r} is {item!r} as in row {seen[item]}",
                    fix="an item has one text a language: give a field that differs with --id_field",
                    where=f"{self._where}: row {row}",
                )
        if not count:
            raise UserError("the data set holds no text", fix="give another split", where=self._where)
        return count, digest.hexdigest()
