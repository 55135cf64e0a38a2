"""The languages of the benchmarks: name, script, family, and how much there is to train on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.languages import canonical_language
from lm_eval_moe.strict_yaml import read_yaml

__all__ = ["ENGLISH", "LANGUAGES_FILE", "TIERS", "LanguageInfo", "by_tier", "known_languages", "language_info"]

LANGUAGES_FILE = Path(__file__).with_name("languages.yaml")
"""The table; its head names the sources."""

ENGLISH = "en"

TIERS = ("high", "mid", "low", "unknown")
"""Resource tiers, richest first; ``unknown`` for languages without a class."""

_TIER_OF_CLASS: Mapping[Any, str] = {5: "high", 4: "high", 3: "mid", "0-2": "low", None: "unknown"}


@dataclass(frozen=True)
class LanguageInfo:
    """What the table says about one language.

    Attributes:
        tag: Its canonical tag (`lm_eval_moe.languages.canonical_language`).
        name: Its English name.
        script: ISO 15924 code of the script that the benchmarks' text is in.
        family: Top-level family in Glottolog.
        tier: ``high``, ``mid``, ``low`` or ``unknown``, from the classes of Joshi et al. 2020 as the Aya Dataset paper
            groups them (5-4, 3, 2-0, not in the list).
        branch: Branch of a large family, or None.
    """

    tag: str
    name: str
    script: str
    family: str
    tier: str
    branch: str | None = None


def language_info(tag: str) -> LanguageInfo:
    """Return what the table says about a language.

    Args:
        tag: The language, in any spelling that `canonical_language` knows.

    Raises:
        UserError: It is not a language code, or not in the table.
    """
    try:
        canonical = canonical_language(tag)
    except ValueError as error:
        raise UserError(str(error), fix="give a BCP 47 tag or an ISO 639 code, such as sw or swh_Latn") from error
    table = known_languages()
    if canonical not in table:
        raise UserError(
            f"the language {canonical!r} is not in the table{did_you_mean(canonical, table)}",
            fix="add a line with its name, script, family and class",
            where=str(LANGUAGES_FILE),
        )
    return table[canonical]


@cache
def known_languages() -> Mapping[str, LanguageInfo]:
    """Return the whole table, by canonical tag."""
    rows = read_yaml(LANGUAGES_FILE, "languages")["languages"]
    return MappingProxyType(
        {tag: LanguageInfo(tag, tier=_TIER_OF_CLASS[row.pop("class")], **row) for tag, row in rows.items()}
    )


def by_tier(languages: Iterable[str]) -> dict[str, list[str]]:
    """Return canonical tags by resource tier, richest first; languages that the table does not have are ``unknown``.

    English belongs to no tier: what most models are trained on would hide how the other rich languages fare.
    """
    table = known_languages()
    tiers: dict[str, list[str]] = {tier: [] for tier in TIERS}
    for language in languages:
        if language != ENGLISH:
            tiers[table[language].tier if language in table else "unknown"].append(language)
    return {tier: members for tier, members in tiers.items() if members}
