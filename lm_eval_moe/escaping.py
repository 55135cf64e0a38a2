"""Text from results files made harmless for where it is shown: names of tasks and models are anybody's text."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["csv_cell", "markdown_cell", "printable"]

# What begins a formula in spreadsheets, also behind white space or in full width.
_FORMULA = ("=", "+", "-", "@", "\N{FULLWIDTH EQUALS SIGN}", "\N{FULLWIDTH PLUS SIGN}", "\N{FULLWIDTH COMMERCIAL AT}")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#|~!$@])")
_ENTITIES = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_KEPT = {"\N{ZERO WIDTH NON-JOINER}", "\N{ZERO WIDTH JOINER}"}  # spelling of several scripts


def printable(text: str) -> str:
    r"""Return text on one line without control characters: they are written as escapes, ``\x1b``.

    Terminal sequences, line breaks and marks that turn the direction of writing lose their effect.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) if _is_hidden(char) else char for char in text)


def _is_hidden(char: str) -> bool:
    return unicodedata.category(char) in _HIDDEN and char not in _KEPT


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def csv_cell(text: str) -> str:
    """Return printable text that no spreadsheet takes for a formula: a leading apostrophe is put before one."""
    cell = printable(text)
    return f"'{cell}" if cell.lstrip().startswith(_FORMULA) or text[:1] in ("\t", "\r", "\n") else cell


def markdown_cell(text: str) -> str:
    """Return printable text that is itself in a Markdown table: no markup, HTML, links or mentions."""
    return _MARKDOWN.sub(r"\\\1", printable(text)).translate(_ENTITIES).replace("://", ":\\//")
