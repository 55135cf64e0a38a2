"""Which language a text is written in, to see whether a model answers in the language that it was asked in.

The identifier is py3langid's multinomial naive Bayes model (139 languages, in the package, nothing is downloaded). It
draws no random numbers: the same text always has the same answer. How often it is right is measured per language in
``docs/tasks_metrics.md``.
"""

from __future__ import annotations

import importlib
import re
import unicodedata
import warnings
from functools import cache
from typing import Any

from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.extras import require_extra
from lm_eval_moe.languages import canonical_language

__all__ = [
    "MIN_LETTERS",
    "can_identify",
    "identify",
    "language_consistency",
    "letters_of",
    "prepare_identifier",
    "prose",
]

MIN_LETTERS = 24
"""The least prose that is judged: some four words. A Chinese, Japanese or Korean character counts as three letters."""

_NO_LANGUAGE = "zxx"  # py3langid's class for numbers, markup and names

# Varieties that the identifier tells apart and that count as the language itself where that was asked for.
_VARIETY_OF = {
    "arz": "ar",
    "ary": "ar",
    "wuu": "zh",
    "yue": "zh",
    "uzs": "uz",
    "sdh": "ku",
    "fuv": "ff",
    "ltg": "lv",
    "gom": "kok",
}

# Tags with a script that is not the language's usual one, and in which the identifier knows the language nevertheless.
_KNOWN_IN_SCRIPT = frozenset({"zh-Hant", "sr-Latn"})

# What is not prose. Environments come before commands, displayed mathematics before inline mathematics.
_NOT_PROSE = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"```.*?(?:```|\Z)", re.DOTALL),
        (r"`[^`\n]*`", 0),
        (r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", re.DOTALL),
        (r"\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)", re.DOTALL),
        # As pandoc reads it, so that two prices in a sentence do not make a formula of the words between them.
        (r"\$(?!\s)[^$\n]*?(?<!\s)\$(?!\d)", 0),
        (r"\\[a-zA-Z]+\*?(?:\s*\{[^{}]*\})*", 0),
        (r"<[^<>\n]{1,200}>", 0),
        (r"(?:https?://|www\.)\S+", 0),
    )
)


def prose(text: str) -> str:
    """Return the words of a text: without code, formulas, commands, markup, addresses, digits and symbols."""
    for pattern in _NOT_PROSE:
        text = pattern.sub(" ", text)
    return " ".join("".join(char if _in_a_word(char) else " " for char in text).split())


def _in_a_word(char: str) -> bool:
    # Letters, the marks that Indic and Thai vowels are, apostrophes within words, and the joiners between letters.
    return unicodedata.category(char)[0] in "LM" or char in "'’ʼ-\u200c\u200d"


def prepare_identifier(language: str) -> None:
    """Load the identifier before a run, and warn where it will not recognise the language asked for.

    Args:
        language: The canonical tag of the language that answers should be in.

    Raises:
        UserError: py3langid is not installed.
    """
    if not can_identify(language):
        warnings.warn(
            f"the language identifier does not know {language}: answers in it have no language_consistency",
            RoutingWarning,
            stacklevel=2,
        )


def can_identify(language: str) -> bool:
    """Return whether a text in this language, a canonical tag, would be recognised.

    Raises:
        UserError: py3langid is not installed.
    """
    languages = _known_languages()
    base, dash, _ = language.partition("-")
    return (base if language in _KNOWN_IN_SCRIPT else language) in languages if dash else base in languages


def identify(text: str) -> str | None:
    """Return the canonical tag of the language of a text, or None where it has too little prose to tell.

    Raises:
        UserError: py3langid is not installed.
    """
    words = prose(text)
    if letters_of(words) < MIN_LETTERS:
        return None
    label, _ = _identifier().classify(words)
    return None if label == _NO_LANGUAGE else _canonical(label)


def language_consistency(text: str, language: str) -> float | None:
    """Return 1 where a text is in a language, 0 where it is in another one.

    None where that cannot be said: the text has less than `MIN_LETTERS` letters (a bare number, a formula, nothing), or
    the identifier does not know the language. PolyMath's own code, which this follows (arXiv 2504.18428), counts texts
    of up to 15 characters as consistent; here they do not count.

    Args:
        text: What the model said.
        language: The canonical tag of the language that it should have used.

    Raises:
        UserError: py3langid is not installed.
    """
    identified = identify(text) if can_identify(language) else None
    if identified is None:
        return None
    expected = language.partition("-")[0]
    return float(expected in (identified, _VARIETY_OF.get(identified)))


def letters_of(words: str) -> int:
    """Return how many letters a text has, a Chinese, Japanese or Korean character counted as three."""
    return sum(map(_letters, words))


def _letters(char: str) -> int:
    if unicodedata.category(char)[0] not in "LM":  # the vowels of Indic scripts and Thai are marks
        return 0
    return 3 if unicodedata.east_asian_width(char) in "WF" else 1


_canonical = cache(canonical_language)


@cache
def _identifier() -> Any:
    require_extra("a task with language_consistency", "py3langid.langid")
    langid = importlib.import_module("py3langid.langid")
    # An identifier of our own: py3langid's global one could have been restricted to some languages by others.
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)


@cache
def _known_languages() -> frozenset[str]:
    tags = {_canonical(label) for label in _identifier().labels if label != _NO_LANGUAGE}
    return frozenset(tags | {_VARIETY_OF[tag] for tag in tags & set(_VARIETY_OF)})
