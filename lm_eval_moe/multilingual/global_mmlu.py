"""Global-MMLU: a fixed number of questions of some subjects, the same in every language."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.local_data import rows_of

if TYPE_CHECKING:
    import datasets

__all__ = ["load"]

_COLUMNS = ("sample_id", "subject", "question", "option_a", "option_b", "option_c", "option_d", "answer")


def load(*, moe: Mapping[str, Any], bench_dir: str | None = None, **_: Any) -> datasets.DatasetDict:
    """Return the chosen questions of one language, ``test``, and all examples of their subjects, ``dev``.

    Of each subject the questions are those whose ``sample_id`` has the smallest SHA-256, in the dataset's order. In a
    folder of JSON lines the files are ``<file>.test.jsonl`` and ``<file>.dev.jsonl``.

    Args:
        moe: What the manifest says; its strings are the ``subjects`` and how many ``questions`` each has.
        bench_dir: Folder of JSON lines, see `lm_eval_moe.multilingual.local_data`.

    Raises:
        UserError: The data are not there, lack a column, or a subject has too few questions.
    """
    import datasets

    subjects, count = moe["strings"]["subjects"], moe["strings"]["questions"]
    splits = {}
    for split in ("test", "dev"):
        rows = rows_of(moe, split, _COLUMNS, bench_dir=bench_dir, file=f"{moe['file']}.{split}")
        splits[split] = rows.select([index for index, subject in enumerate(rows["subject"]) if subject in subjects])
    test = splits["test"]
    identities = list(zip(test["subject"], test["sample_id"], strict=True))
    names = {name for subject in subjects for name in _choose_questions(subject, identities, count, moe["dataset"])}
    splits["test"] = test.select([index for index, identity in enumerate(identities) if identity in names])
    return datasets.DatasetDict(splits)


def _choose_questions(subject: str, identities: list[tuple[str, str]], count: int, where: str) -> list[tuple[str, str]]:
    of_subject = sorted(
        (identity for identity in identities if identity[0] == subject),
        key=lambda identity: hashlib.sha256(identity[1].encode()).hexdigest(),
    )
    if len(of_subject) < count:
        raise UserError(
            f"{subject} has {len(of_subject)} questions, but {count} are needed",
            fix="give the whole test split",
            where=where,
        )
    return of_subject[:count]
