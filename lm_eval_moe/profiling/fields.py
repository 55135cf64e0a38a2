"""The fields of a record, from a JSON line or a data set, that hold a document's text and name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_moe.errors import UserError, did_you_mean

__all__ = ["Fields"]


@dataclass(frozen=True)
class Fields:
    """Which fields to read.

    Attributes:
        text: The field of the text.
        id: The field that names an item in every language; None: its position does.
    """

    text: str = "text"
    id: str | None = None

    def read(self, record: object, where: str) -> tuple[str, str | None]:
        """Return a record's text and name.

        Raises:
            UserError: A field is missing or of the wrong type.
        """
        if not isinstance(record, Mapping):
            raise UserError(
                f"expected a JSON object, got {type(record).__name__}", fix='write {"text": "..."}', where=where
            )
        text = self._field(record, self.text, "--text_field", where)
        if not isinstance(text, str):
            raise UserError(
                f"the field {self.text!r} holds {type(text).__name__}, not a text",
                fix="name the field of the text with --text_field",
                where=where,
            )
        if self.id is None:
            return text, None
        name = self._field(record, self.id, "--id_field", where)
        if isinstance(name, bool) or not isinstance(name, int | str) or name == "":
            raise UserError(
                f"the field {self.id!r} holds {name!r}, which names no item",
                fix="name a field of texts or whole numbers with --id_field, or leave it out: texts then pair by "
                "position",
                where=where,
            )
        return text, str(name)

    @staticmethod
    def _field(record: Mapping[str, Any], field: str, flag: str, where: str) -> Any:
        if field not in record:
            raise UserError(
                f"the field {field!r} is missing{did_you_mean(field, record)}",
                fix=f"name one of {', '.join(map(repr, record)) or 'none'} with {flag}",
                where=where,
            )
        return record[field]
