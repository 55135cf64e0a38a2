"""Numbers in words: units, signs, rounding, and p-values."""

from __future__ import annotations

import pytest

from lm_eval_moe.number_text import MINUS, Scale, p_number, p_text, per_cent
from lm_eval_moe.results import Metric
from lm_eval_moe.statistics import Difference, Estimate

SHARE, OTHER = Scale(Metric("acc", "none")), Scale(Metric("bleu", "none"))
PLAIN = Scale(Metric("acc", "none"), plain=True)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (SHARE.number(0.5404), "54.0"),
        (SHARE.change(0.024), "+2.4"),
        (SHARE.change(-0.024), f"{MINUS}2.4"),
        (PLAIN.change(-0.024), "-2.4"),
        (SHARE.change(-0.0004), "0.0"),
        (SHARE.number(-0.0004), "0.0"),
        (OTHER.number(0.6126), "0.613"),
        (OTHER.number(23.512), "23.51"),
        (OTHER.change(-9.9994), f"{MINUS}9.999"),
        (Scale(None).number(0.25), "0.250"),
        (PLAIN.value(0.612), "61.2 %"),
        (OTHER.value(0.612), "0.612"),
        (SHARE.difference(Difference(0.017, 0.021, "paired")), "+1.7 \N{PLUS-MINUS SIGN} 2.1 percentage points"),
        (OTHER.difference(Difference(0.017, None, "unpaired")), "+0.017"),
        (PLAIN.estimate(Estimate(0.815, 0.017)), "81.5 % \N{PLUS-MINUS SIGN} 1.7"),
        (PLAIN.interval((-0.004, 0.044)), "[-0.4, +4.4]"),
        (PLAIN.interval((None, 0.044)), ""),
        (PLAIN.interval(None), ""),
        (SHARE.size_in_words(0.052), "5.2 percentage points"),
        (OTHER.size_in_words(0.0412), "0.0412"),
        (OTHER.axis, "no unit"),
        (per_cent(0.05), "5 %"),
        (per_cent(1 - 0.05), "95 %"),
        (per_cent(0.9995), "99.95 %"),
    ],
)
def test_numbers_are_written_alike_everywhere(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("p", "number", "text"),
    [
        (0.0784, "0.078", "p = 0.078"),
        (1.0, "1", "p = 1"),
        (0.0001, "0.0001", "p = 0.0001"),
        (0.0000999, "<0.0001", "p < 0.0001"),
        (0.0, "<0.0001", "p < 0.0001"),
    ],
)
def test_p_values_have_two_digits(p: float, number: str, text: str) -> None:
    assert (p_number(p), p_text(p)) == (number, text)
