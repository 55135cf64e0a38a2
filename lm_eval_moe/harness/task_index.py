"""lm-eval's task manager with this package's tasks, indexing lm-eval's own thousands only where they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.replacing import replaced
from lm_eval_moe.resources import tasks_dirs

__all__ = ["TaskManager", "indexing_what_is_needed", "listed", "metadata_of", "task_manager", "without_defaults"]


class _OwnTasks(TaskManager):
    """Knows no task of lm-eval's, whatever it is asked."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "include_defaults": False})


def indexing_what_is_needed(
    tasks: str | Sequence[str] | None, include_path: Sequence[str | Path]
) -> AbstractContextManager[None]:
    """Keep lm-eval's command from reading its thousands of task files for a run of none of them.

    Args:
        tasks: As lm-eval takes them: names with commas between, or a list of such.
        include_path: Folders of further tasks.
    """
    parts = [tasks] if isinstance(tasks, str) else tasks or []
    names = [name for part in parts for name in str(part).split(",")]
    files = any(name.endswith(".yaml") or Path(name).is_dir() for name in names)
    if names and not files and without_defaults(names, include_path) is not None:
        return replaced(lm_eval.tasks, "TaskManager", _OwnTasks)
    return nullcontext()


def listed(what: str, include_path: Sequence[str | Path] = ()) -> str:
    """Return what lm-eval's own ``ls`` prints, with this package's tasks among the others.

    Args:
        what: ``tasks`` (everything), ``groups``, ``subtasks`` or ``tags``.
        include_path: Folders of further tasks.
    """
    manager = TaskManager(include_path=_folders(include_path))
    kinds = {name: what in ("tasks", name) for name in ("groups", "tags", "subtasks")}
    return str(manager.list_all_tasks(**{f"list_{name}": is_listed for name, is_listed in kinds.items()}))


def task_manager(
    tasks: Sequence[str], include_path: Sequence[str | Path] = (), metadata: Mapping[str, Any] | None = None
) -> TaskManager:
    """Return a manager that knows all of the given tasks and groups.

    Args:
        tasks: Names, or patterns with ``*``.
        include_path: Folders of further tasks, which win over ours, and ours over lm-eval's.
        metadata: What the tasks' own code is given.

    Raises:
        UserError: A task does not exist.
    """
    manager = without_defaults(tasks, include_path, metadata)
    if manager is not None:
        return manager
    every = TaskManager(include_path=_folders(include_path), metadata=dict(metadata or {}))
    for name in tasks:
        if not every.match_tasks([name]):
            raise UserError(
                f"there is no task {name!r}{did_you_mean(name, every.all_tasks)}",
                fix="`lm-eval-moe ls` and `lm_eval ls tasks` list them; give your own folder of tasks with "
                "--include_path",
                where="--tasks",
            )
    return every


def metadata_of(manager: TaskManager, tasks: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the tasks that names, groups and tags stand for, and the ``metadata`` of their files; loads no data.

    Args:
        manager: Knows them.
        tasks: Names, or patterns with ``*``; what is not text (a loaded task) is passed over.
    """
    index = getattr(manager, "_task_index", None) or manager.task_index  # 0.5's name, and 0.4's
    waiting: list[Any] = [name for name in tasks if isinstance(name, str)]
    waiting = [*waiting, *manager.match_tasks(waiting)]
    names = set()
    while waiting:
        member = waiting.pop()
        name = member.get("task") if isinstance(member, Mapping) else member
        if isinstance(name, list):
            waiting += name
            continue
        if not isinstance(name, str) or name in names or (entry := index.get(name)) is None:
            continue
        names.add(name)
        content = entry.cfg or {}
        members = content.get("task") if "group" in content else None
        if entry.yaml_path is None:
            waiting += entry.tags  # of a tag, its tasks
        elif members is not None:
            waiting += members if isinstance(members, list) else [members]
        else:
            yield name, content.get("metadata")


def without_defaults(
    tasks: Sequence[str], include_path: Sequence[str | Path] = (), metadata: Mapping[str, Any] | None = None
) -> TaskManager | None:
    """Return a manager of our tasks and the given folders' if these are all that is asked for, else None."""
    manager = TaskManager(include_path=_folders(include_path), include_defaults=False, metadata=dict(metadata or {}))
    return manager if all(manager.match_tasks([name]) for name in tasks) else None


def _folders(include_path: Sequence[str | Path]) -> list[str]:
    return list(dict.fromkeys(map(str, (*tasks_dirs(), *include_path))))
