"""What is known of one task: its language, its benchmark, and what names an item in every language."""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_moe.errors import UserError, did_you_mean

__all__ = ["TaskPairing"]


@dataclass(frozen=True)
class TaskPairing:
    """One task's place among its translations.

    Attributes:
        task: The task's name in lm-eval.
        language: Canonical tag of the language that the items are written in.
        benchmark: Identity shared by the tasks that pair with each other, variants included
            (``afrimgsm[mode=cot,prompt=1]``).
        item: The document fields that name an item across languages; None: its row index does.
        note: What to know about this pairing, such as why there is no English.
    """

    task: str
    language: str
    benchmark: str
    item: tuple[str, ...] | None
    note: str | None = None

    def item_key(self, doc: Mapping[str, Any], row: int) -> str:
        """Return the key that is the same for the same item in every language of the benchmark.

        Args:
            doc: The document as the task hands it out.
            row: Its index in the task's evaluation documents (lm-eval's ``doc_id``).

        Raises:
            UserError: The document lacks one of the fields, or it holds nothing that could name an item.
        """
        if self.item is None:
            return f"row:{row}"
        values = [self._field(doc, field, row) for field in self.item]
        return values[0] if len(values) == 1 else json.dumps(values, ensure_ascii=False)

    def _field(self, doc: Mapping[str, Any], field: str, row: int) -> str:
        where = f"task {self.task}, document {row}"
        if field not in doc:
            raise UserError(
                f"the field {field!r}, which names the items of {self.benchmark}, is missing{did_you_mean(field, doc)}",
                fix=f"the document has {', '.join(map(str, doc))}; say which of them name an item in "
                "metadata.routing.item of the task, or in a file given with --parallel",
                where=where,
            )
        value = doc[field]
        if isinstance(value, str) and value:
            return value
        if not isinstance(value, bool):
            if isinstance(value, numbers.Integral):
                return str(int(value))
            if isinstance(value, numbers.Real) and math.isfinite(value):
                number = float(value)
                # A whole number that went through a data frame comes back as 12.0: it is the same item as 12.
                return str(int(number)) if number.is_integer() else str(number)
        raise UserError(
            f"the field {field!r}, which names the items of {self.benchmark}, holds {value!r:.80}",
            fix="an item is named by text or a number; choose another field in metadata.routing.item of the task, "
            "or in a file given with --parallel",
            where=where,
        )
