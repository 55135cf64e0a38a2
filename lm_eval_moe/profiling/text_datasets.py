"""Texts from a data set that the `datasets` library loads, from the hub or from a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.profiling.checked_texts import CheckedTexts
from lm_eval_moe.profiling.fields import Fields

__all__ = ["TextDataset", "parse_dataset"]

PREFIX = "hf:"


def parse_dataset(argument: str) -> tuple[str, str | None, str]:
    """Return name, config and split of ``hf:NAME:CONFIG:SPLIT``; an empty config is the default one.

    Raises:
        UserError: It is not of that form.
    """
    parts = argument.removeprefix(PREFIX).rsplit(":", 2)
    if len(parts) != 3 or not parts[0] or not parts[2]:
        raise UserError(
            f"{argument!r} does not name a split of a data set",
            fix="write hf:NAME:CONFIG:SPLIT, e.g. en=hf:openlanguagedata/flores_plus:eng_Latn:dev; without a config "
            "hf:NAME::SPLIT",
            where="--texts",
        )
    return parts[0], parts[1] or None, parts[2]


class TextDataset(CheckedTexts):
    """A split of a data set in one language.

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

    unit, at = "row", "in"
    empty = ("the data set holds no text", "give another split")

    def __init__(
        self,
        argument: str,
        language: str,
        benchmark: str | None,
        fields: Fields,
        *,
        limit: int | None,
        has_names: bool = True,
    ) -> None:
        self.name, self.config, self.split = parse_dataset(argument)
        short = self.name.rstrip("/").rsplit("/", 1)[-1]
        super().__init__(f"--texts {language}={argument}", language, benchmark or short, short, fields, limit)
        self._rows = self._load()
        self.count, digest = 0, hashlib.sha256()
        for item, text in self.checked(has_names):
            self.count += 1
            digest.update(json.dumps([item, text]).encode())
        self._sha256 = digest.hexdigest()

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

    def all_texts(self) -> Iterator[tuple[str | None, str, int]]:
        """Yield every row's text, with its item's name."""
        for row, record in enumerate(self._rows):
            text, name = self.fields.read(record, f"{self.where}: row {row}")
            yield name, text, row

    def _load(self) -> Any:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        try:
            return load_dataset(self.name, self.config, split=self.split)
        except (DatasetsError, ValueError, OSError) as error:
            raise UserError(
                f"the data set cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0]}",
                fix="check its name, config and split; write hf:NAME:CONFIG:SPLIT",
                where=self.where,
            ) from error
