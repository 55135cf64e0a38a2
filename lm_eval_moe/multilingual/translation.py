"""Translation from English, on FLORES+ (NLLB Team 2022, arXiv 2207.04672), as arXiv 2601.14050 asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual.boxed import answer_part
from lm_eval_moe.multilingual.documents import LANGUAGE, as_test, with_consistency
from lm_eval_moe.multilingual.language_id import prepare_identifier
from lm_eval_moe.multilingual.local_data import rows_of

if TYPE_CHECKING:
    import datasets

__all__ = ["load", "score"]


def load(
    *, moe: Mapping[str, Any], routing: Mapping[str, Any], bench_dir: str | None = None, **_: Any
) -> datasets.DatasetDict:
    """Return English sentences with their translation into one language, ``test`` (devtest).

    Columns: ``id``, ``source`` (English), ``reference``, ``target`` (the language's English name).

    Args:
        moe: What the manifest says; the strings are ``name``, ``source_config`` and ``source_file``.
        routing: The language that is translated into.
        bench_dir: Folder of JSON lines: ``flores/<language>.jsonl``.

    Raises:
        UserError: A library is missing, the data are not there or lack a column, or the two languages' ids differ.
    """
    prepare_identifier(routing["language"])
    strings = moe["strings"]
    english, target = (
        rows_of(moe, "devtest", ("id", "text"), bench_dir=bench_dir, benchmark="flores", file=file, config=config)
        for file, config in ((strings["source_file"], strings["source_config"]), (moe["file"], moe.get("config")))
    )
    references = dict(zip(target["id"], target["text"], strict=True))
    missing = [str(sentence) for sentence in english["id"] if sentence not in references]
    if missing:
        raise UserError(
            f"{len(missing)} English sentences have no translation, such as those with id {', '.join(missing[:5])}",
            fix="both languages must come from the same version of the data",
            where=f"{moe['dataset']} ({moe.get('config')})",
        )
    rows = [
        {"id": sentence, "source": text, "reference": references[sentence]}
        for sentence, text in zip(english["id"], english["text"], strict=True)
    ]
    return as_test(rows, **{"target": strings["name"], LANGUAGE: routing["language"]})


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Return the pair that corpus chrF++ is computed from, and consistency."""
    translation = answer_part(results[0]).strip()
    return with_consistency({"chrf++": (doc["reference"], translation)}, doc, results[0])
