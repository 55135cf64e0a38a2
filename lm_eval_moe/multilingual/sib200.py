"""SIB-200: the topic of a sentence of FLORES-200, in 205 languages (Adelani et al. 2024, arXiv 2309.07445)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.multilingual.local_data import has_local_file, rows_of

if TYPE_CHECKING:
    import datasets

__all__ = ["CATEGORIES", "load"]

CATEGORIES = ("science/technology", "travel", "politics", "sports", "health", "entertainment", "geography")
"""The topics, in the order in which the prompt names them."""

_COLUMNS = ("index_id", "category", "text")


def load(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return the sentences of one language as ``test``, and as ``validation`` those for few-shot examples.

    Columns: those of the hub, ``index_id`` (the same sentence in every language), ``category`` and ``text``.

    Args:
        moe: What the manifest says.
        bench_dir: Folder of JSON lines: ``sib200/<configuration>.test.jsonl`` and ``.validation.jsonl``; the latter may
            be missing, and then there are no few-shot examples.

    Raises:
        UserError: The data are not there, lack a column, or have another category.
    """
    import datasets

    test = _rows(moe, "test", bench_dir)
    has_others = has_local_file("sib200", moe["file"], "validation", bench_dir)
    examples = _rows(moe, "validation", bench_dir) if has_others else test.select([])
    return datasets.DatasetDict(test=test, validation=examples)


def _rows(moe: Mapping[str, Any], split: str, bench_dir: str | None) -> datasets.Dataset:
    rows = rows_of(moe, split, _COLUMNS, bench_dir=bench_dir, benchmark="sib200").select_columns(list(_COLUMNS))
    for category in sorted(set(rows["category"])):
        if category not in CATEGORIES:
            raise UserError(
                f"{category!r} is not a category{did_you_mean(category, CATEGORIES)}",
                fix=f"the categories are {', '.join(CATEGORIES)}",
                where=f"sib200, {moe.get('config')}, split {split}",
            )
    return rows
