"""A short hash of a text that does not change with what does not make it another text."""

from __future__ import annotations

import hashlib
import unicodedata

__all__ = ["text_hash"]

_SHORTEST = 16
_LETTERS = 8
_DIGITS = 12


def text_hash(text: str) -> str:
    """Return twelve hexadecimal digits, the same for texts that differ in case, white space or Unicode form alone.

    Texts of fewer than 16 characters or 8 letters (an answer, a sum, a date) give an empty string: that two of them are
    the same says nothing.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if len(plain) < _SHORTEST or sum(map(str.isalpha, plain)) < _LETTERS:
        return ""
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
