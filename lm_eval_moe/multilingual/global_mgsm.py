"""Global-MGSM: MGSM in 41 languages, each with its own instruction and the word that the answer follows."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.multilingual.boxed import answer_part
from lm_eval_moe.multilingual.documents import LANGUAGE, as_test, with_consistency
from lm_eval_moe.multilingual.language_id import prepare_identifier
from lm_eval_moe.multilingual.local_data import rows_of
from lm_eval_moe.multilingual.numerals import last_number, same_number

if TYPE_CHECKING:
    import datasets

__all__ = ["load", "score"]

_COLUMNS = ("question", "answer", "instruction", "answer_prefix")


def load(
    *, moe: Mapping[str, Any], routing: Mapping[str, Any], bench_dir: str | None = None, **_: Any
) -> datasets.DatasetDict:
    """Return the problems of one language as ``test``.

    Columns: those of the hub (``question``, ``answer``, ``instruction``, ``answer_prefix``) and ``item`` (the row).

    Args:
        moe: What the manifest says.
        routing: The task's language.
        bench_dir: Folder of JSON lines: ``global_mgsm/<language>.jsonl``.

    Raises:
        UserError: A library is missing, or the data are not there or lack a column.
    """
    prepare_identifier(routing["language"])
    rows = rows_of(moe, "test", _COLUMNS, bench_dir=bench_dir).select_columns(list(_COLUMNS))
    return as_test(rows, **{"item": list(range(len(rows))), LANGUAGE: routing["language"]})


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether the number after the answer's word is right, whether the last number is, and consistency."""
    response = answer_part(results[0])
    scores = {
        "exact_match": _right(_after(doc["answer_prefix"], response), doc["answer"]),
        "flexible_match": _right(response, doc["answer"]),
    }
    return with_consistency(scores, doc, results[0])


def _right(text: str | None, gold: str) -> float:
    number = last_number(text) if text is not None else None
    return float(number is not None and same_number(number, gold))


def _after(prefix: str, response: str) -> str | None:
    """Return what follows the last occurrence of the answer's word, None where it is missing."""
    response_text, word = (unicodedata.normalize("NFC", text) for text in (response, prefix))
    _, separator, after = response_text.rpartition(word.rstrip(" :："))
    return after if separator and word.strip(" :：") else None
