"""What the loaders of this package's own tasks share: rows by the manifest's facts, and columns added to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.multilingual.boxed import answer_part
from lm_eval_moe.multilingual.language_id import can_identify, language_consistency
from lm_eval_moe.multilingual.local_data import load_rows

if TYPE_CHECKING:
    import datasets

__all__ = ["LANGUAGE", "load", "rows_of", "with_columns", "with_consistency"]

LANGUAGE = "answer_language"
"""The column that says in which language, a canonical tag, an answer should be."""


def load(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return the rows of one language as ``test``, as they are: the loader of a benchmark that needs none of its own.

    Args:
        moe: What the manifest says.
        bench_dir: Folder of JSON lines: ``<benchmark>/<file>.jsonl``.

    Raises:
        UserError: The rows are not there.
    """
    import datasets

    return datasets.DatasetDict(test=rows_of(moe, "test", (), bench_dir=bench_dir))


def rows_of(
    moe: Mapping[str, Any],
    split: str,
    columns: Sequence[str],
    *,
    bench_dir: str | None = None,
    benchmark: str | None = None,
    file: str | None = None,
    config: str | None = None,
) -> datasets.Dataset:
    """Return one split of a task's rows.

    Args:
        moe: The task's ``metadata.moe``, which the manifest says.
        split: The split's name.
        columns: The columns that the task reads.
        bench_dir: Folder of JSON lines given with ``--metadata``.
        benchmark: Folder of the rows there, where it is not the benchmark's name.
        file: Name of the file there, where it is not what the manifest says.
        config: Configuration on the hub, where it is not what the manifest says.

    Raises:
        UserError: The rows are not there, or lack a column; the message names the columns that there are.
    """
    return load_rows(
        benchmark=benchmark or moe["benchmark"],
        file=file or moe["file"],
        dataset=moe["dataset"],
        config=config or moe.get("config"),
        split=split,
        columns=columns,
        revision=moe.get("revision"),
        bench_dir_given=bench_dir,
    )


def with_columns(rows: datasets.Dataset, **columns: object) -> datasets.Dataset:
    """Return rows with further columns; a list has a value for each row, anything else is the same in all of them."""
    for name, value in columns.items():
        values = value if isinstance(value, list) else [value] * len(rows)
        rows = rows.add_column(name, values)
    return rows


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
