"""XQuAD, answered directly (Artetxe et al. 2020, arXiv 1910.11856), with the instructions of arXiv 2601.14050."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.multilingual.answers import contains_answer, exact_match, f1
from lm_eval_moe.multilingual.boxed import answer_part
from lm_eval_moe.multilingual.documents import LANGUAGE, as_test
from lm_eval_moe.multilingual.local_data import rows_of

if TYPE_CHECKING:
    import datasets

__all__ = ["load", "score"]

_COLUMNS = ("id", "context", "question", "answers")


def load(
    *, moe: Mapping[str, Any], routing: Mapping[str, Any], bench_dir: str | None = None, **_: Any
) -> datasets.DatasetDict:
    """Return the questions of one language as ``test``.

    Columns: those of the hub (``id``, ``context``, ``question``, ``answers``) and ``instruction``.

    Args:
        moe: What the manifest says; the string is ``instruction``.
        routing: The task's language.
        bench_dir: Folder of JSON lines: ``xquad/<language>.jsonl``.

    Raises:
        UserError: The data are not there or lack a column.
    """
    rows = rows_of(moe, "validation", _COLUMNS, bench_dir=bench_dir, benchmark="xquad").select_columns(list(_COLUMNS))
    return as_test(rows, **{"instruction": moe["strings"]["instruction"], LANGUAGE: routing["language"]})


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether the answer stands in the response, and SQuAD's exact match and F1."""
    response, golds, language = answer_part(results[0]).strip(), doc["answers"]["text"], doc[LANGUAGE]
    return {
        "contains_answer": contains_answer(response, golds),
        "exact_match": exact_match(response, golds, language),
        "f1": f1(response, golds, language),
    }
