"""One name a language: every spelling that benchmarks use is brought to the same tag."""

from __future__ import annotations

import langcodes
from langcodes.tag_parser import LanguageTagError

__all__ = ["canonical_language"]

# Scripts that are written within another one, as the usual script of a language is registered.
_PART_OF = {"Hang": "Kore", "Hira": "Jpan", "Kana": "Jpan"}


def canonical_language(name: str) -> str:
    """Return the shortest standard tag of a language: ``swh_Latn``, ``swa`` and ``sw`` are all ``sw``.

    A script is kept only where it is not the language's usual one (``zh-Hant`` stays, ``zh-Hans`` is ``zh``).
    Regions are dropped, members of a macrolanguage take its name (``arb`` is ``ar``).

    Args:
        name: A BCP 47 tag or an ISO 639 code, with ``-`` or ``_``.

    Raises:
        ValueError: ``name`` is not the code of a language.
    """
    if len(name) > 100:
        raise ValueError(f"{name[:40]!r}... is not a language code")
    try:
        tag = langcodes.Language.get(name.replace("_", "-"), normalize=True)
    except LanguageTagError as error:
        raise ValueError(f"{name!r} is not a language code: {error}") from error
    if tag.language is None or not tag.is_valid():
        raise ValueError(f"{name!r} is not a language code")
    language = langcodes.Language.make(tag.language).prefer_macrolanguage()
    usual_script = language.maximize().script
    tag_script = _PART_OF.get(tag.script or "", tag.script)
    script = tag_script if usual_script and tag_script != usual_script else None
    return langcodes.Language.make(language=language.language, script=script).to_tag()
