"""Many languages are shown by resource tier: more than a dozen lines, rows or names are more than one can follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from lm_eval_moe.drawing.palette import Colours
from lm_eval_moe.multilingual.languages import ENGLISH, by_tier, known_languages

__all__ = ["MANY", "by_family", "grouped_rows", "language_title", "tier_colour", "tier_names"]

MANY = 12
"""Up to so many languages, a figure shows each by itself."""

_LINES = {"high": 0, "mid": 1, "low": 3}


def grouped_rows(languages: Iterable[str], order: Callable[[str], float]) -> dict[str, list[str]]:
    """Return the languages by tier, in each from the smallest value of ``order`` to the largest; English by itself."""
    names = list(languages)
    groups = {"": [ENGLISH]} if ENGLISH in names else {}
    return {**groups, **{tier: sorted(members, key=order) for tier, members in by_tier(names).items()}}


def by_family(languages: Iterable[str], least: int) -> dict[str, list[str]]:
    """Return the languages by family, the largest first; those with fewer than ``least`` languages are together."""
    infos = known_languages()
    families: dict[str, list[str]] = {}
    for language in languages:
        families.setdefault(infos[language].family if language in infos else "unknown", []).append(language)
    large = {name: members for name, members in families.items() if len(members) >= least}
    ordered_families = dict(sorted(large.items(), key=lambda entry: (-len(entry[1]), entry[0])))
    rest = [language for name, members in families.items() if name not in large for language in members]
    return {**ordered_families, **({"other families": rest} if rest else {})}


def tier_colour(tier: str, colours: Colours) -> str:
    """Return the colour of a tier."""
    return colours.line(_LINES[tier]) if tier in _LINES else colours.muted


def tier_names(tiers: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return how each tier is called, with the number of its languages: ``mid (18)``."""
    return {tier: f"{tier} ({len(members)})" for tier, members in tiers.items()}


def language_title(language: str) -> str:
    """Return a language's tag and its English name."""
    info = known_languages().get(language)
    return f"{language} \N{MIDDLE DOT} {info.name}" if info else language
