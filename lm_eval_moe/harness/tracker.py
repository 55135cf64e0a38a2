"""lm-eval's writer of results, whose files appear whole or not at all, and whose failures are errors."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lm_eval.loggers
from lm_eval.loggers import EvaluationTracker

from lm_eval_moe.errors import UserError
from lm_eval_moe.replacing import replaced

__all__ = ["WholeFilesTracker", "name_model", "writing_whole_files"]


@contextmanager
def writing_whole_files() -> Iterator[list[Path]]:
    """Let lm-eval's command write through our tracker; yield the list of the files, which grows as they appear.

    Raises:
        UserError: When it is done: something could not be written.
    """
    trackers: list[WholeFilesTracker] = []
    written: list[Path] = []

    def make(*args: Any, **kwargs: Any) -> WholeFilesTracker:
        trackers.append(WholeFilesTracker(*args, **kwargs))
        trackers[-1].written = written
        return trackers[-1]

    with replaced(lm_eval.loggers, "EvaluationTracker", make):
        yield written
    for tracker in trackers:
        tracker.check()


def name_model(tracker: EvaluationTracker, name: str) -> None:
    """Let a tracker write the name of a model that lm-eval was given as an object."""
    tracker.general_config_tracker.model_source = name


class WholeFilesTracker(EvaluationTracker):
    """Writes as its base class does, next to the place first; the base class only logs what goes wrong.

    Attributes:
        failed: What could not be written, for an error when everything else is done.
        written: The files that were.
    """

    output_path: str | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failed: list[str] = []
        self.written: list[Path] = []

    def save_results_aggregated(self, results: dict[str, Any], samples: dict[str, Any] | None = None) -> None:
        """Write the results file."""
        with self._whole("the results"):
            super().save_results_aggregated(results, samples)

    def save_results_samples(self, task_name: str, samples: Any) -> None:
        """Write a task's log of samples."""
        with self._whole(f"the samples of {task_name}"):
            super().save_results_samples(task_name, samples)

    def check(self) -> None:
        """Say what could not be written.

        Raises:
            UserError: There is something.
        """
        if self.failed:
            raise UserError(
                "; ".join(self.failed),
                fix="free some space or choose another --output_path, and run again: files written earlier are "
                "unchanged, and with --use_cache no answer is computed twice",
                where=f"--output_path {self.output_path}",
            )

    @contextmanager
    def _whole(self, what: str) -> Iterator[None]:
        folder: str | None = self.output_path
        if not folder:
            yield
            return
        path = Path(folder)
        home = path.parent if path.suffix == ".json" else path
        aside = home / f".{os.getpid()}.partial"
        problems = _Problems(aside, home)
        logger = logging.getLogger(EvaluationTracker.__module__)
        logger.addFilter(problems)
        self.output_path = str(aside / path.name if path.suffix == ".json" else aside)
        try:
            yield
            if not problems.seen:
                self.written += _move(aside, home)
        except OSError as error:
            problems.seen.append(repr(error))
        finally:
            self.output_path = folder
            logger.removeFilter(problems)
            shutil.rmtree(aside, ignore_errors=True)
        if problems.seen:
            problem = problems.seen[-1].replace(str(aside), str(home))
            self.failed.append(f"{what} could not be written ({problem})")


class _Problems(logging.Filter):
    """Keeps what lm-eval says when it could not save, and lets it name the place where the files will be.

    Args:
        aside: The folder that it writes to.
        home: The place.
    """

    def __init__(self, aside: Path, home: Path) -> None:
        super().__init__()
        self.aside, self.home = str(aside), str(home)
        self.seen: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage().replace(self.aside, self.home)
        if message.startswith("Could not save") or self.seen:  # what went wrong is in the next line
            self.seen.append(message)
        record.msg, record.args = message, ()
        return True


def _move(aside: Path, home: Path) -> list[Path]:
    """Move all files to their places, and return these."""
    places = []
    for file in sorted(aside.rglob("*")):
        if file.is_file():
            place = home / file.relative_to(aside)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
            places.append(place)
    return places
