"""Scores of an answer that is a span of text: exact match and F1 over words, and whether the text contains it.

Exact match and F1 are those of MLQA's evaluation script (Lewis et al. 2020, arXiv 1910.07475): lower case, no
punctuation, no articles of the languages that it knows, Chinese by character. It knows seven languages. For the others
no articles are removed, and Japanese and Thai, which put no spaces between words, are split by character as well (our
choices).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

__all__ = ["contains_answer", "exact_match", "f1", "normalised_words"]

_ARTICLES = {
    "en": r"\b(a|an|the)\b",
    "es": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(của|là|cái|chiếc|những)\b",
    "de": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\sال^|ال",
}
_BY_CHARACTER = {
    "zh": re.compile(r"([\u3400-\u9fff\uf900-\ufaff])"),
    "ja": re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])"),
    # A Thai consonant with the vowel and tone marks on it.
    "th": re.compile(r"([\u0e00-\u0e30\u0e32\u0e33\u0e40-\u0e46][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*)"),
}


def normalised_words(text: str, language: str) -> list[str]:
    """Return the words that answers are compared by.

    Args:
        text: An answer.
        language: Canonical tag of the language that it is to be in.
    """
    base = language.partition("-")[0]
    text = "".join(char for char in text.lower() if not _is_punctuation(char))
    if base in _ARTICLES:
        text = re.sub(_ARTICLES[base], " ", text)
    if base in _BY_CHARACTER:
        text = _BY_CHARACTER[base].sub(r" \1 ", text)
    return text.split()


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char).startswith("P") or char in string.punctuation


def exact_match(text: str, golds: Sequence[str], language: str) -> float:
    """Return 1 where the words of a text are those of one of the right answers, else 0."""
    words = normalised_words(text, language)
    return float(any(words == normalised_words(gold, language) for gold in golds))


def f1(text: str, golds: Sequence[str], language: str) -> float:
    """Return the harmonic mean of precision and recall over words, of the right answer for which it is highest."""
    words = normalised_words(text, language)
    return max(_f1(words, normalised_words(gold, language)) for gold in golds)


def _f1(words: list[str], gold: list[str]) -> float:
    common = (Counter(words) & Counter(gold)).total()
    return 2 * common / (len(words) + len(gold)) if common else 0.0


def contains_answer(text: str, golds: Sequence[str]) -> float:
    """Return 1 where one of the right answers stands in a text letter for letter, else 0.

    Case, the form of characters (full and half width, composed and decomposed) and runs of blanks do not matter.
    """
    response = _letters(text)
    return float(any(_letters(gold) in response for gold in golds))


def _letters(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
