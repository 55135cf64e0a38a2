"""What lm-eval is kept from while it runs one of our evaluations: needless warnings, and needless work."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from lm_eval import evaluator
from tqdm import tqdm

from lm_eval_moe.replacing import replaced

__all__ = ["quiet_harness", "warnings_only"]

_HINT = "Custom kwargs can be passed to"
"""Said about every task with a data function of its own."""


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Keep lm-eval from giving a hint once a task, from describing the machine again every time, from stacking bars
    (one a task, one a run), and from letting git complain where there is no repository.
    """

    def is_no_hint(record: logging.LogRecord) -> bool:
        return _HINT not in record.getMessage()

    # A task's module is one in 0.4, and a package whose parts have loggers of their own in 0.5.
    loggers = [logging.getLogger(f"lm_eval.api.task{part}") for part in ("", "._task")]
    original = getattr(evaluator, "add_env_info", None)  # another lm-eval may do without
    here = Path.cwd()
    with ExitStack() as stack:
        for logger in loggers:
            logger.addFilter(is_no_hint)
            stack.callback(logger.removeFilter, is_no_hint)
            module = sys.modules.get(logger.name)
            if hasattr(module, "tqdm"):
                # One a task and a run: each says what it counts, and makes room for the next one.
                stack.enter_context(replaced(module, "tqdm", partial(tqdm, desc="Building prompts", leave=False)))
        requests = sys.modules.get("lm_eval.api.model")
        if hasattr(requests, "tqdm"):
            stack.enter_context(replaced(requests, "tqdm", partial(tqdm, leave=False)))
        if original is not None:
            environment = partial(_environment, original, here)
            stack.enter_context(replaced(evaluator, "add_env_info", lambda storage: storage.update(environment())))
        commit = getattr(evaluator, "get_git_commit_hash", None)
        if commit is not None and not any((folder / ".git").exists() for folder in (here, *here.parents)):
            stack.enter_context(replaced(evaluator, "get_git_commit_hash", lambda: None))
        yield


@contextmanager
def warnings_only() -> Iterator[None]:
    """Keep lm-eval from saying again, of the same tasks and the same model, what it said of the run before."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        log.setLevel(level)


@cache
def _environment(describe: Any, folder: Path) -> dict[str, Any]:
    """Return lm-eval's description of the machine, for which it starts a dozen programs: a second or more."""
    description: dict[str, Any] = {}
    describe(description)
    return description
