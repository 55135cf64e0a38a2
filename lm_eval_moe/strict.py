"""Our warnings as they come, each once; and as an error, for those who asked for that."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval_moe.errors import FlawedResultsError, RoutingWarning

__all__ = ["StrictError", "noted_warnings"]


class StrictError(FlawedResultsError):
    """Warnings that were not to pass.

    Args:
        texts: The warnings.
        results: What was computed before the last of them; None where nothing was.
    """

    def __init__(self, texts: Sequence[str], results: dict[str, Any] | None = None) -> None:
        listed = "".join(f"\n  - {text}" for text in texts)
        super().__init__(
            f"{len(texts)} warning{'s' * (len(texts) > 1)}, and strict allows none:{listed}",
            fix="fix what they report, or leave out strict",
            where="--strict",
            results=results,
        )


@contextmanager
def noted_warnings(show: Callable[[str], object] | None = None) -> Iterator[list[str]]:
    """Yield the list of our warnings, which grows as they come.

    Args:
        show: Shows a warning's text, each once; None: as they are shown otherwise.
    """
    with warnings.catch_warnings():
        default, texts = warnings.showwarning, list[str]()
        warnings.simplefilter("always", RoutingWarning)

        def noted(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
            if not issubclass(category, RoutingWarning):
                default(message, category, *rest, **options)
            elif str(message) not in texts:
                texts.append(str(message))
                if show is None:
                    default(message, category, *rest, **options)
                else:
                    show(str(message))

        warnings.showwarning = noted
        yield texts
