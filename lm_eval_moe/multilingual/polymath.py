"""PolyMath: mathematics in 18 languages and four levels (Wang et al. 2025, arXiv 2504.18428)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.boxed import boxed_answer
from lm_eval_moe.multilingual.documents import LANGUAGE, as_test, with_consistency
from lm_eval_moe.multilingual.expressions import prepare_expressions, same_expression
from lm_eval_moe.multilingual.language_id import prepare_identifier
from lm_eval_moe.multilingual.local_data import rows_of

if TYPE_CHECKING:
    import datasets

__all__ = ["LEVEL_WEIGHTS", "load", "score"]

LEVEL_WEIGHTS = {"low": 4 / 15, "medium": 8 / 15, "high": 16 / 15, "top": 32 / 15}
"""Each level weighs twice the one before it, and their mean is 1: the mean over the levels of a right answer's weight
is the benchmark's difficulty-weighted accuracy, (low + 2 medium + 4 high + 8 top) / 15."""

_ID = re.compile(r"(?P<level>low|medium|high|top)-(?:[a-z]+-)?(?P<number>\d+)")


def load(
    *,
    moe: Mapping[str, Any],
    routing: Mapping[str, Any],
    bench_dir: str | None = None,
    language_control: bool = False,
    **_: Any,
) -> datasets.DatasetDict:
    """Return the problems of one language and level as ``test``.

    Columns: those of the hub (``id``, ``question``, ``answer``), ``item`` (the id without the language), ``level`` and
    ``instruction``.

    Args:
        moe: What the manifest says; the strings are ``instruction`` and ``language_control``, the variant is the level.
        routing: The task's language.
        bench_dir: Folder of JSON lines: ``polymath/<language>.<level>.jsonl``.
        language_control: Also ask for thoughts and answer in the problem's language, as the benchmark's own prompts
            optionally do (``--metadata '{"language_control": true}'``).

    Raises:
        UserError: A library is missing, or the data are not there or not of the documented form.
    """
    prepare_identifier(routing["language"])
    prepare_expressions()
    level = moe["variant"]
    rows = rows_of(moe, level, ("id", "question", "answer"), bench_dir=bench_dir, file=f"{moe['file']}.{level}")
    strings = moe["strings"]
    instruction = "\n".join([strings["instruction"], *([strings["language_control"]] if language_control else [])])
    items = [_item(str(row_id), level, moe) for row_id in rows["id"]]
    columns = {"item": items, "level": level, "instruction": instruction, LANGUAGE: routing["language"]}
    return as_test(rows, **columns)


def _item(row_id: str, level: str, moe: Mapping[str, Any]) -> str:
    match = _ID.fullmatch(row_id)
    if match is None or match["level"] != level:
        raise UserError(
            f"the id {row_id!r} does not name a problem of the level {level!r}",
            fix=f"ids look like {level}-{moe.get('config', 'en')}-17",
            where=f"{moe['dataset']}, column id",
        )
    return f"{level}-{int(match['number'])}"


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Return whether the first boxed answer is the right one, the same with its level's weight, and consistency."""
    answer = boxed_answer(results[0])
    right = float(answer is not None and same_expression(answer, doc["answer"]))
    scores = {"exact_match": right, "difficulty_weighted": right * LEVEL_WEIGHTS[doc["level"]]}
    return with_consistency(scores, doc, results[0])
