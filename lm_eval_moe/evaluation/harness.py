"""What lm-eval is kept from while it runs one of our evaluations: needless warnings, and needless work."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval import evaluator

from lm_eval_moe.routing_fields import Field

__all__ = ["quiet_harness"]


@contextmanager
def quiet_harness(fields: Iterable[Field] = ()) -> Iterator[None]:
    """Keep lm-eval from warning of what is as it should be, and from describing the machine again every time.

    Not worth a warning: a group's reference language has no divergence from itself, and a task with a data function of
    its own could be given arguments (a hint, once a task).

    Args:
        fields: The routing fields of the evaluation.
    """
    hushed = {
        "lm_eval.api.group": [f"metric '{field.name}" for field in fields],
        "lm_eval.api.task": ["Custom kwargs can be passed to"],
    }
    filters = []
    for name, phrases in hushed.items():

        def worth_saying(record: logging.LogRecord, phrases: list[str] = phrases) -> bool:
            message = record.getMessage()
            return not any(phrase in message for phrase in phrases)

        logger = logging.getLogger(name)
        logger.addFilter(worth_saying)
        filters.append((logger, worth_saying))
    original = getattr(evaluator, "add_env_info", None)  # another lm-eval may do without
    if original is not None:
        evaluator.add_env_info = lambda storage: storage.update(_environment(original, Path.cwd()))
    try:
        yield
    finally:
        if original is not None:
            evaluator.add_env_info = original
        for logger, worth_saying in filters:
            logger.removeFilter(worth_saying)


@cache
def _environment(describe: Any, folder: Path) -> dict[str, Any]:
    """Return lm-eval's description of the machine, for which it starts a dozen programs: a second or more."""
    found: dict[str, Any] = {}
    describe(found)
    return found
