"""Whether two mathematical answers in LaTeX are the same: as text, as numbers, or as expressions.

Expressions are compared by math-verify (Hugging Face, Apache-2.0), on SymPy.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
from functools import cache
from types import ModuleType

from lm_eval_moe.extras import require_extra
from lm_eval_moe.multilingual.numerals import readings, same_number, western_digits

__all__ = ["prepare_expressions", "same_expression"]

_SECONDS = 10
"""The longest that reading one expression, or comparing two, may take."""

_PLAIN_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def prepare_expressions() -> None:
    """Load what compares expressions, so that a run stops before the model answers where it is missing.

    Raises:
        UserError: math-verify is not installed.
    """
    _math_verify()


def same_expression(answer: str, gold: str) -> bool:
    """Return whether an answer in LaTeX, without its box, equals the right one.

    Args:
        answer: What a model put into its box.
        gold: The right answer, with or without dollar signs around it.

    Raises:
        UserError: math-verify is not installed.
    """
    if _tight(answer) == _tight(gold):
        return True
    gold = _tight(gold)
    # A plain number may be met by one with units or separators. (1, 2 is not a number: two values, to be left alone.)
    if _PLAIN_NUMBER.fullmatch(gold) and readings(answer):
        return same_number(answer, gold)
    return _equal(_tight(answer), gold)


def _tight(text: str) -> str:
    return re.sub(r"\s+", " ", western_digits(text).replace("$", "")).strip(" .")


def _equal(answer: str, gold: str) -> bool:
    library = _math_verify()
    # Time limits are signals, which only the main thread of a process may set.
    seconds = _SECONDS if threading.current_thread() is threading.main_thread() else None
    parsed = [library.parse(f"${text}$", parsing_timeout=seconds) for text in (gold, answer)]
    return all(parsed) and bool(library.verify(*parsed, timeout_seconds=seconds))


@cache
def _math_verify() -> ModuleType:
    require_extra("a task with answers in LaTeX", "math_verify")
    # An answer that cannot be read is a wrong answer, not something to report for each of thousands.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return importlib.import_module("math_verify")
