"""Evaluations of the bundled tasks, as the tests need them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from lm_eval_moe import HFMoE, simple_evaluate
from lm_eval_moe.resources import tasks_dir


def task_manager(*folders: Path) -> TaskManager:
    """Return a task manager that knows the tasks of this package and of further folders, and none of lm-eval's."""
    return TaskManager(include_path=[str(folder) for folder in (tasks_dir(), *folders)], include_defaults=False)


def evaluate(
    lm: HFMoE, manager: TaskManager, tasks: Collection[str] | Mapping[str, Sequence[int]], **kwargs: Any
) -> dict[str, Any]:
    """Evaluate a model, without bootstrap unless asked for; return lm-eval's results.

    Args:
        lm: The model.
        manager: Knows the tasks.
        tasks: Their names, or for each the documents to evaluate.
        kwargs: Of `simple_evaluate`.
    """
    if isinstance(tasks, Mapping):
        kwargs["samples"] = {name: list(documents) for name, documents in tasks.items()}
    results = simple_evaluate(lm, tasks=list(tasks), task_manager=manager, **{"bootstrap_iters": 0, **kwargs})
    assert results is not None
    return results
