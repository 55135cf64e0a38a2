"""What lm-eval is kept from while it runs one of our evaluations: needless warnings, and needless work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval import evaluator

__all__ = ["quiet_harness"]

_HINT = "Custom kwargs can be passed to"
"""Said of every task with a data function of its own."""


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Keep lm-eval from giving a hint once a task, and from describing the machine again every time."""

    def is_no_hint(record: logging.LogRecord) -> bool:
        return _HINT not in record.getMessage()

    # A task's module is one in 0.4, and a package whose parts have loggers of their own in 0.5.
    loggers = [logging.getLogger(f"lm_eval.api.task{part}") for part in ("", "._task")]
    for logger in loggers:
        logger.addFilter(is_no_hint)
    original = getattr(evaluator, "add_env_info", None)  # another lm-eval may do without
    if original is not None:
        evaluator.add_env_info = lambda storage: storage.update(_environment(original, Path.cwd()))
    try:
        yield
    finally:
        if original is not None:
            evaluator.add_env_info = original
        for logger in loggers:
            logger.removeFilter(is_no_hint)


@cache
def _environment(describe: Any, folder: Path) -> dict[str, Any]:
    """Return lm-eval's description of the machine, for which it starts a dozen programs: a second or more."""
    found: dict[str, Any] = {}
    describe(found)
    return found
