"""``--texts``: which languages, from which files and data sets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lm_eval_moe.errors import UserError
from lm_eval_moe.languages import canonical_language
from lm_eval_moe.profiling.documents import Source
from lm_eval_moe.profiling.fields import Fields
from lm_eval_moe.profiling.text_datasets import PREFIX, TextDataset
from lm_eval_moe.profiling.text_files import TextFile

__all__ = ["benchmark_of", "text_sources"]


def text_sources(
    arguments: Sequence[str], fields: Fields, *, benchmark: str | None, limit: int | None, has_names: bool
) -> list[Source]:
    """Return the sources that ``LANGUAGE=FILE`` and ``LANGUAGE=hf:NAME:CONFIG:SPLIT`` name, each read and checked.

    Args:
        arguments: The arguments.
        fields: The fields of JSON lines and data sets.
        benchmark: What the items are of; None: by the files' names.
        limit: How many texts to take from the top of each.
        has_names: Whether items keep their names.

    Raises:
        UserError: One is not of that form, cannot be read, or a language is given twice.
    """
    places: dict[str, str] = {}
    for argument in arguments:
        name, _, place = argument.partition("=")
        if not name or not place:
            raise UserError(
                f"{argument!r} is not LANGUAGE=FILE", fix="write e.g. --texts en=en.txt sw=sw.jsonl", where="--texts"
            )
        try:
            language = canonical_language(name)
        except ValueError as error:
            raise UserError(str(error), fix="give a language code such as en or swh_Latn", where="--texts") from error
        if language in places:
            raise UserError(
                f"the language {language!r} is given twice: {places[language]} and {place}",
                fix="profile the files one at a time into different folders; `lm-eval-moe profile merge` joins them",
                where="--texts",
            )
        places[language] = place
    sources: list[Source] = []
    for language, place in places.items():
        if place.startswith(PREFIX):
            sources.append(TextDataset(place, language, benchmark, fields, limit=limit, has_names=has_names))
        else:
            path = Path(place)
            name = benchmark or benchmark_of(path, language)
            sources.append(TextFile(path, language, name, fields, limit=limit, has_names=has_names))
    return sources


def benchmark_of(path: Path, language: str) -> str:
    """Return a file's stem without its language, or its folder's name where the stem is nothing else.

    ``flores.swh_Latn.dev.txt`` is of ``flores.dev``, ``ntrex/swa.txt`` of ``ntrex``.
    """
    pieces = re.split(r"([-_.]+)", path.stem)  # words at even places, what joins them at odd ones
    words = range(0, len(pieces), 2)
    for length in (3, 2, 1):
        for start in words:
            end = start + 2 * length - 1
            if end <= len(pieces) and _is_language("".join(pieces[start:end]), language):
                rest = "".join(pieces[:start]) + "".join(pieces[end + 1 :])
                return rest.strip("-_.") or path.resolve().parent.name or "texts"
    return path.stem


def _is_language(name: str, language: str) -> bool:
    try:
        return canonical_language(name.replace(".", "-")) == language
    except ValueError:
        return False
