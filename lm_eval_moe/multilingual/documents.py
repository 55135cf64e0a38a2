"""What the loaders of this package's own tasks make of their rows: a split with further columns, and scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lm_eval_moe.multilingual.boxed import answer_part
from lm_eval_moe.multilingual.language_id import can_identify, language_consistency
from lm_eval_moe.multilingual.local_data import rows_of

if TYPE_CHECKING:
    import datasets

__all__ = ["LANGUAGE", "as_test", "load", "with_consistency"]

LANGUAGE = "answer_language"
"""The column that says in which language, a canonical tag, an answer should be."""


def load(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return the rows of one language as ``test``, as they are: the loader of a benchmark that needs no other.

    Args:
        moe: What the manifest says.
        bench_dir: Folder of JSON lines: ``<benchmark>/<file>.jsonl``.

    Raises:
        UserError: The rows are not there.
    """
    return as_test(rows_of(moe, "test", (), bench_dir=bench_dir))


def as_test(rows: datasets.Dataset | list[dict[str, Any]], **columns: object) -> datasets.DatasetDict:
    """Return rows as the split ``test``, with further columns; what is not a list is the same in all rows."""
    import datasets

    rows = datasets.Dataset.from_list(rows) if isinstance(rows, list) else rows
    for name, value in columns.items():
        rows = rows.add_column(name, value if isinstance(value, list) else [value] * len(rows))
    return datasets.DatasetDict(test=rows)


def with_consistency(scores: Mapping[str, Any], doc: Mapping[str, Any], response: str) -> dict[str, Any]:
    """Return scores with ``language_consistency``, and with ``language_judged``: 1 where it could be said, else 0.

    Where it cannot be said the document has no ``language_consistency``, so that the mean is over those that have one.
    In a language that the identifier does not know, there is neither. What a reasoning model thinks does not count,
    what it then answers does.
    """
    language = doc[LANGUAGE]
    if not can_identify(language):
        return dict(scores)
    value = language_consistency(answer_part(response), language)
    judged = {"language_judged": float(value is not None)}
    return {**scores, **judged, **({} if value is None else {"language_consistency": value})}
