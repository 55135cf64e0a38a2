"""Numbers as models write them: in the digits of any script, with separators, units and LaTeX."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

__all__ = ["last_number", "readings", "same_number", "western_digits"]

_SIGNS = str.maketrans("٫．。٬，、−－％٪／", "...,,,--%%/")
_SPACES = "\u0020\u00a0\u202f\u2009'’"
# Groups of three may be separated by spaces or apostrophes; whatever has points or commas is sorted out below.
_NUMBER = re.compile(rf"\d{{1,3}}(?:[{_SPACES}]\d{{3}})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,]\d+)*|[.,]\d+")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))|(\d+)\s*/\s*(\d+)")
# With one of these around it, a number is not the value: \\sqrt{2}, 10^3, 10².
_NO_PLAIN_NUMBER = re.compile(r"\\(?:sqrt|pi|log|ln|exp|sin|cos|tan)\b|\^|[\u00b2\u00b3\u00b9\u2070-\u209c√π]")
_LATEX = (
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\(?:text|mathrm|textbf|mathbf|operatorname|unit)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"(?<=\d)\\[,!;: ](?=\d{3})"), ","),
    (re.compile(r"\\[,!;: ]"), " "),
    (re.compile(r"\^\{?\\circ\}?"), " "),
    (re.compile(r"\\(?=[$%#&])"), ""),
    (re.compile(r"\*\*|[$~]"), " "),
)


def western_digits(text: str) -> str:
    """Return a text with the digits 0 to 9 for the decimal digits of every script, and ASCII signs around them."""
    return "".join(_western(char) for char in text).translate(_SIGNS)


def _western(char: str) -> str:
    # Superscripts and circled numbers are digits to Unicode, but not decimal ones: 10² stays as it is.
    value = unicodedata.decimal(char, None)
    return char if value is None else str(value)


def readings(text: str) -> frozenset[Fraction]:
    """Return the values that an answer can mean: none where it does not hold exactly one number.

    ``1,000`` may be a thousand or one, ``50%`` fifty or one half; what surrounds the number (units, a currency, an
    equation's left side without digits) does not matter.
    """
    text = _plain(text)
    if _NO_PLAIN_NUMBER.search(text):
        return frozenset()
    fractions = list(_FRACTION.finditer(text))
    if fractions:
        return _of_fraction(text, fractions[0])
    matches = list(_NUMBER.finditer(text))
    if len(matches) != 1:
        return frozenset()
    return _signed(_values(matches[0][0]), text, matches[0])


def same_number(text: str, gold: str | int | float) -> bool:
    """Return whether an answer can be read as the number ``gold`` (of whose own readings the largest counts).

    Raises:
        ValueError: ``gold`` does not hold exactly one number.
    """
    values = readings(str(gold))
    if not values:
        raise ValueError(f"{gold!r} is not a number")
    return max(values) in readings(text)


def last_number(text: str) -> str | None:
    """Return the last number of a text with its sign, as it stands there but for western digits; None without one."""
    text = _plain(text)
    matches = list(_NUMBER.finditer(text))
    if not matches:
        return None
    return ("-" if _negative(text, matches[-1].start()) else "") + matches[-1][0]


def _plain(text: str) -> str:
    text = western_digits(text)
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text


def _of_fraction(text: str, match: re.Match[str]) -> frozenset[Fraction]:
    if _NUMBER.search(text[: match.start()]) or _NUMBER.search(text[match.end() :]):
        return frozenset()  # a mixed number or an equation: more than one number
    above, below = (int(next(filter(None, match.group(*pair)))) for pair in ((1, 2, 5), (3, 4, 6)))
    return _signed(frozenset({Fraction(above, below)}), text, match) if below else frozenset()


def _values(token: str) -> frozenset[Fraction]:
    """Return what a number with separators can mean."""
    token = re.sub(f"[{_SPACES}]", "", token)
    kinds = {sign for sign in ".," if sign in token}
    if not kinds:
        return frozenset({Fraction(token)})
    last = max(kinds, key=token.rindex)
    integer_part, _, rest = token.rpartition(last)
    decimal = Fraction(f"{re.sub('[.,]', '', integer_part) or '0'}.{rest}")
    if len(kinds) == 2:
        return frozenset({decimal}) if token.count(last) == 1 else frozenset()
    groups = token.split(last)
    # Groups of two before the last three are how South Asia writes 1,00,000.
    grouped = len(groups[-1]) == 3 and 0 < len(groups[0]) <= 3 and all(len(g) in (2, 3) for g in groups[1:-1])
    thousands = {Fraction("".join(groups))} if grouped and groups[0] != "0" else set()
    return frozenset(thousands | ({decimal} if len(groups) == 2 else set()))


def _signed(values: frozenset[Fraction], text: str, match: re.Match[str]) -> frozenset[Fraction]:
    if _negative(text, match.start()):
        values = frozenset(-value for value in values)
    if text[match.end() :].lstrip().startswith("%"):
        values = values | {value / 100 for value in values}
    return values


def _negative(text: str, start: int) -> bool:
    before = text[:start].rstrip("$€£¥₹")
    if before.endswith("-"):  # a sign, unless something to subtract from stands right before it
        return not re.search(r"[\w)]-$", before)
    return bool(re.search(r"(?:^|[=:(])\s*-\s+$", before))
