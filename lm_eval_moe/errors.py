"""The one error that a user's mistake ends in, and the words that help to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

__all__ = [
    "FlawedResultsError",
    "NothingSelectedError",
    "RoutingBypassedError",
    "RoutingWarning",
    "UserError",
    "did_you_mean",
]


class UserError(Exception):
    """A mistake in what the user gave: a file, a flag, a model that cannot do what was asked.

    The command line prints it as one message without a traceback and exits with 2.

    Args:
        problem: What was given and why it is refused.
        fix: What is allowed, or what to change.
        where: The file and key path (``steer.yaml: interventions.0.layers``), a flag, or a model name.
    """

    exit_code = 2

    def __init__(self, problem: str, *, fix: str | None = None, where: str | None = None) -> None:
        self.problem, self.fix, self.where = problem, fix, where
        text = f"{where}: {problem}" if where else problem
        super().__init__(f"{text}\n  -> {fix}" if fix else text)


class NothingSelectedError(UserError):
    """A selection rule selects no expert: a grid over its threshold may leave such a cell out."""


class RoutingBypassedError(UserError):
    """A router or an experts module ran past the interception: steering or capture would be a silent no-op."""


class FlawedResultsError(UserError):
    """Something is wrong with what was computed, but it is to be kept.

    Args:
        problem: What is wrong.
        fix: What to change.
        where: Where to change it.
        results: What there is; None where nothing was computed.

    Attributes:
        results: The same.
    """

    def __init__(
        self, problem: str, *, fix: str | None = None, where: str | None = None, results: dict[str, Any] | None = None
    ) -> None:
        super().__init__(problem, fix=fix, where=where)
        self.results = results


class RoutingWarning(UserWarning):
    """A loud warning about a run that goes on but will not contain all that was asked for."""


def did_you_mean(word: object, allowed: Iterable[object]) -> str:
    """Return ``" (did you mean 'soft'?)"`` for the closest of ``allowed``, or an empty string."""
    close = difflib.get_close_matches(str(word), [str(name) for name in allowed], n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""
