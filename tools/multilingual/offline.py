"""Real lm-eval tasks on invented rows: to show their prompts, and to test them, without the hub."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.harness.task_files import StockTasks
from lm_eval_moe.multilingual.local_data import BENCH_DIR_VARIABLE
from lm_eval_moe.multilingual.manifest import BenchmarkTask, Manifest
from tools.multilingual.examples import hub_splits, write_examples

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask

__all__ = ["OfflineTasks"]


class OfflineTasks:
    """Builds tasks as lm-eval's task manager does, on invented rows.

    This package's tasks read them through their own loaders; lm-eval's tasks, which would download, get them instead.
    """

    def __init__(self) -> None:
        self._stock = StockTasks()

    def build(self, manifest: Manifest, tasks: Iterable[BenchmarkTask], number: int) -> dict[str, ConfigurableTask]:
        """Return lm-eval's objects of a benchmark's tasks, by name; for one of lm-eval's groups its first task.

        Args:
            manifest: The benchmark.
            tasks: Those to build.
            number: Rows of each.

        Raises:
            UserError: There are no invented rows for this benchmark.
        """
        import datasets
        from lm_eval.tasks import TaskManager

        datasets.disable_progress_bars()
        chosen = list(tasks)
        if manifest.lm_eval:
            rows = hub_splits(manifest, number)
            return {task.name: self._stock.build(task.name, rows) for task in chosen}
        with tempfile.TemporaryDirectory(prefix="lm-eval-moe-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", RoutingWarning)  # of what a run would lack
            write_examples(Path(folder), manifest, chosen, number)
            manager = TaskManager(include_path=[str(manifest.path.parent)], include_defaults=False)
            with _environment(BENCH_DIR_VARIABLE, folder):
                loaded = manager.load([task.name for task in chosen])["tasks"]
        return {task.name: loaded[task.name] for task in chosen}


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
