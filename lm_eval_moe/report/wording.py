"""Words and lists in the report's sentences."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["listing", "plural", "sentence_case"]


def plural(count: int, noun: str, many: str | None = None) -> str:
    """Write ``1 language``, ``8 languages``."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def sentence_case(text: str) -> str:
    """Begin a text with a capital, unless its first word is a name with an underscore."""
    return text if "_" in text.split(" ", 1)[0] else text[:1].upper() + text[1:]


def listing(words: Sequence[str]) -> str:
    """Write ``de, es and sw``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
