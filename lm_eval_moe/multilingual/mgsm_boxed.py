"""MGSM with reasoning and a boxed answer, as arXiv 2601.14050 runs it with PolyMath's instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.multilingual.boxed import boxed_answer
from lm_eval_moe.multilingual.documents import LANGUAGE, as_test, with_consistency
from lm_eval_moe.multilingual.language_id import prepare_identifier
from lm_eval_moe.multilingual.local_data import rows_of
from lm_eval_moe.multilingual.numerals import same_number

if TYPE_CHECKING:
    import datasets

__all__ = ["load", "score"]


def load(
    *, moe: Mapping[str, Any], routing: Mapping[str, Any], bench_dir: str | None = None, **_: Any
) -> datasets.DatasetDict:
    """Return the problems of one language as ``test``.

    Columns: those of the data (``question``, ``answer_number``), ``item`` (the problem's number in every language) and
    ``instruction``.

    Args:
        moe: What the manifest says; the string is ``instruction``.
        routing: The task's language.
        bench_dir: Folder of JSON lines: ``mgsm/<language>.jsonl``.

    Raises:
        UserError: A library is missing, or the data are not there or lack a column.
    """
    prepare_identifier(routing["language"])
    rows = rows_of(moe, "test", ("question", "answer_number"), bench_dir=bench_dir, benchmark="mgsm")
    # Local rows have an idx of their own, the hub's have none: the problems stand in the same order everywhere.
    rows = rows.select_columns(["question", "answer_number"])
    columns = {"instruction": moe["strings"]["instruction"], LANGUAGE: routing["language"]}
    return as_test(rows, item=list(range(len(rows))), **columns)


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether the first boxed answer is the right number, and consistency."""
    answer = boxed_answer(results[0])
    right = answer is not None and same_number(answer, doc["answer_number"])
    return with_consistency({"exact_match": float(right)}, doc, results[0])
