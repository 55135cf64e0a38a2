"""XCOPA with English: which alternative is the cause, or the effect, of a premise."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.local_data import local_folder, rows_of

if TYPE_CHECKING:
    import datasets

__all__ = ["load"]

_ENGLISH = "en"
# The release's column `question` is wrong in five languages, and the same as English COPA's in Estonian.
_RIGHT = "et"
_COLUMNS = ("premise", "choice1", "choice2", "label")
_RELATIONS = ("cause", "effect")


def load(
    *, moe: Mapping[str, Any], routing: Mapping[str, Any], bench_dir: str | None = None, **_: Any
) -> datasets.DatasetDict:
    """Return the items of one language, ``test`` (500) and ``validation`` (100).

    Columns: ``idx`` (the item's number in every language), ``relation``, ``prompt`` (the premise without its full stop,
    and a connector), ``choices`` (the alternatives with a small first letter) and ``label``.

    Args:
        moe: What the manifest says of the language; its strings are the connectors ``cause`` and ``effect``.
        routing: The task's ``metadata.routing``.
        bench_dir: Folder of JSON lines, see `lm_eval_moe.multilingual.local_data`; there the column ``question_en``
            says which relation is asked for.

    Raises:
        UserError: The data are not there, lack a column, or do not belong together.
    """
    import datasets

    splits = {}
    for split in ("validation", "test"):
        if local_folder(bench_dir) is not None:
            rows = _local(moe, split, bench_dir)
        elif routing["language"] == _ENGLISH:
            rows = _english(moe, split)
        else:
            rows = _hub(moe, moe["config"], split)
        splits[split] = datasets.Dataset.from_list([_document(row, moe["strings"]) for row in rows])
    return datasets.DatasetDict(splits)


def _document(row: Mapping[str, Any], connectors: Mapping[str, str]) -> dict[str, Any]:
    return {
        "idx": int(row["idx"]),
        "relation": row["relation"],
        "prompt": f"{_unfinished(row['premise'])} {connectors[row['relation']]}",
        "choices": [_continued(row["choice1"]), _continued(row["choice2"])],
        "label": int(row["label"]),
    }


def _unfinished(premise: str) -> str:
    """Return a premise without the mark at its end, if it has one: Thai and Tamil sentences have none."""
    premise = premise.strip()
    return premise[:-1] if unicodedata.category(premise[-1]).startswith("P") else premise


def _continued(choice: str) -> str:
    return choice[0].lower() + choice[1:]


def _local(moe: Mapping[str, Any], split: str, folder: str | None) -> list[dict[str, Any]]:
    columns = (*_COLUMNS, "idx", "question_en")
    rows = rows_of(moe, split, columns, bench_dir=folder, file=f"{moe['file']}.{split}")
    return [{**row, "relation": row["question_en"]} for row in rows]


def _hub(moe: Mapping[str, Any], config: str, split: str) -> list[dict[str, Any]]:
    """Return the rows of a language with the relations of the language that has them right."""
    rows = _from_hub(moe, config, split)
    right = rows if config == _RIGHT else _from_hub(moe, _RIGHT, split)
    relations = {row["idx"]: row["question"] for row in right}
    return [{**row, "relation": relations[row["idx"]]} for row in rows]


def _english(moe: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """Return English COPA, whose items with labels lie elsewhere, in XCOPA's order; that they do is checked."""
    source = moe["strings"][f"english_{split}"]
    english = rows_of({**moe, "config": None, "revision": None, **source}, split, (*_COLUMNS, "question"))
    rows = [{**row, "idx": index, "relation": row["question"]} for index, row in enumerate(english)]
    right = _hub(moe, _RIGHT, split)
    if [_answer(row) for row in rows] != [_answer(row) for row in right]:
        raise UserError(
            f"the {split} items are not those of {moe['dataset']} in its order: relations and labels differ",
            fix="set the dataset's revision in tasks/xcopa/benchmark.yml to one in which they match",
            where=source["dataset"],
        )
    return rows


def _answer(row: Mapping[str, Any]) -> tuple[int, str, int]:
    return int(row["idx"]), row["relation"], int(row["label"])


def _from_hub(moe: Mapping[str, Any], config: str, split: str) -> list[dict[str, Any]]:
    rows = rows_of(moe, split, (*_COLUMNS, "idx", "question"), config=config)
    for row in rows:
        if row["question"] not in _RELATIONS:
            raise UserError(
                f"an item asks for {row['question']!r}", fix="expected cause or effect", where=moe["dataset"]
            )
    return list(rows)
