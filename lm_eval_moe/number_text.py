"""How numbers are written for people: the same in every table, sentence and figure.

Shares of items (accuracy) are written in per cent with one decimal, their differences in percentage points; other
numbers with three decimals, or two from 10 on.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["MINUS", "Scale", "minus", "p_number", "p_text", "per_cent", "share_text", "signed"]

MINUS = "\N{MINUS SIGN}"
_THIN = "\N{NARROW NO-BREAK SPACE}"
_LEAST_P = 0.0001


class _Scaled(Protocol):
    """A metric, or anything else that knows whether its values are shares of items."""

    @property
    def is_share(self) -> bool: ...


class _Measured(Protocol):
    """A number with its standard error, None where that is not known."""

    @property
    def value(self) -> float: ...

    @property
    def stderr(self) -> float | None: ...


class Scale:
    """How the values of a metric are written.

    Args:
        of: The metric, or what has its values; None for divergence, which has no unit.
        plain: With hyphens for minus signs and ordinary spaces, as in a log.

    Attributes:
        factor: What a value is multiplied by.
        unit: ``%`` or nothing.
        points: What follows a difference in a sentence: `` percentage points`` or nothing.
        axis: The unit of a difference, as an axis has it.
    """

    def __init__(self, of: _Scaled | None, *, plain: bool = False) -> None:
        self._share, self._plain = of is not None and of.is_share, plain
        self.factor = 100.0 if self._share else 1.0
        self.unit = "%" if self._share else ""
        self.axis = "percentage points" if self._share else "no unit"
        self.points = f" {self.axis}" if self._share else ""

    def _decimals(self, value: float) -> int:
        return 1 if self._share else 2 if abs(value) >= 10 else 3

    def number(self, value: float) -> str:
        """Write a bare number; a rounded zero has no sign."""
        return self.change(value).removeprefix("+")

    def change(self, value: float) -> str:
        """Write a difference, with its sign; a rounded zero has none."""
        return signed(value * self.factor, self._decimals(value), plain=self._plain)

    def value(self, value: float) -> str:
        """Write a number with its unit."""
        return self.number(value) + (f"{' ' if self._plain else _THIN}{self.unit}" if self.unit else "")

    def estimate(self, estimate: _Measured) -> str:
        """Write ``81.5 % ± 1.7``; the part after ± is a standard error."""
        return self.value(estimate.value) + self._error(estimate)

    def difference(self, difference: _Measured) -> str:
        """Write ``+1.7 ± 2.1 percentage points``."""
        return self.change(difference.value) + self._error(difference) + self.points

    def _error(self, measured: _Measured) -> str:
        return "" if measured.stderr is None else f" ± {self.number(measured.stderr)}"

    def interval(self, interval: tuple[float | None, float | None] | None) -> str:
        """Write ``[+0.4, +4.4]``; nothing where an end is not known."""
        if interval is None or interval[0] is None or interval[1] is None:
            return ""
        return f"[{self.change(interval[0])}, {self.change(interval[1])}]"

    def size(self, value: float) -> str:
        """Write how large a difference is, without its unit: that of a share as `number`, others in three digits."""
        return self.number(value) if self._share else f"{value:.3g}"

    def size_in_words(self, value: float) -> str:
        """Write ``5.2 percentage points``, or ``0.41``."""
        return self.size(value) + self.points


def signed(value: float, decimals: int, *, plain: bool = False) -> str:
    """Write a number with its sign; a rounded zero has none."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text if plain else minus(text)


def minus(text: str) -> str:
    """Write true minus signs."""
    return text.replace("-", MINUS)


def per_cent(share: float) -> str:
    """Write a level: ``95 %``."""
    return f"{100 * share:.6g} %"


def share_text(share: float) -> str:
    """Write a share; only what is exactly all or nothing is written so."""
    value = 100 * share
    if 0 < value < 0.1:
        return "< 0.1 %"
    if 99.9 < value < 100:
        return "> 99.9 %"
    return f"{value:.0f} %" if value in (0, 100) else f"{value:.1f} %"


def p_number(p: float) -> str:
    """Write a p-value in two digits."""
    return f"<{_LEAST_P}" if p < _LEAST_P else f"{p:.2g}"


def p_text(p: float) -> str:
    """Write ``p = 0.023``, or ``p < 0.0001``."""
    return f"p < {_LEAST_P}" if p < _LEAST_P else f"p = {p_number(p)}"
