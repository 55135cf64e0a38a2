"""The words of the demo data, in eight languages: what ``words.yaml`` next to this file says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval_moe.strict_yaml import read_yaml

__all__ = ["LANGUAGES", "SMALLEST_NUMBER", "Language"]

SMALLEST_NUMBER = 2
"""The number that ``Language.numbers[0]`` spells."""


@dataclass(frozen=True)
class Language:
    """One language of the demo data.

    Attributes:
        code: The ISO 639-1 code.
        name: The English name.
        share: The share of training documents.
        names: Ten personal names per case; ``nom`` always, others where the templates need them.
        female: Which of the ten names take feminine agreement (used by Hindi verbs).
        numbers: The numerals two to twelve.
        counted: How a numeral and a noun stand together: fields ``number``, ``noun``, ``measure``.
        things: Eight countable nouns; ``many`` is the form after large numbers, others as the language needs
            (``few`` after 2-4, ``two`` for its own form of the numeral two, ``measure``, ``how``, ``given``).
        problems: A template per kind of problem.
        answer: The word before the answer.
        places: Eight places: ``at`` with its preposition, ``is`` as what follows "where".
        days: Seven days, Monday first, as adverbs (``on``) and as nouns (``noun``).
        activities: Eight activities; ``verb`` and ``object`` apart where word order needs it (``f``: feminine form).
        colours: Six colours as nouns.
        weather: Four clauses.
        sentences: A template per kind of plain sentence.
        joiner: What stands between two sentences.
    """

    code: str
    name: str
    share: float
    names: Mapping[str, Sequence[str]]
    numbers: Sequence[str]
    counted: str
    things: Sequence[dict[str, str]]
    problems: Mapping[str, str]
    answer: str
    places: Mapping[str, Sequence[str]]
    days: Mapping[str, Sequence[str]]
    activities: Mapping[str, Sequence[str]]
    colours: Sequence[str]
    weather: Sequence[str]
    sentences: Mapping[str, str]
    female: Sequence[bool] = (True, False) * 5
    joiner: str = " "


def _language(code: str, things: Mapping[str, Sequence[str]], **fields: Any) -> Language:
    """Turn the columns of forms of ``things`` into one dictionary per noun."""
    nouns = [dict(zip(things, forms, strict=True)) for forms in zip(*things.values(), strict=True)]
    return Language(code=code, things=nouns, **fields)


LANGUAGES: dict[str, Language] = {
    code: _language(code, **fields)
    for code, fields in read_yaml(Path(__file__).with_name("words.yaml"), "words").items()
}
"""The languages by code, in falling order of training share."""
