"""Where the data that comes with the package lies, from a checkout as from an installed wheel."""

from __future__ import annotations

from pathlib import Path

from lm_eval_moe.discovery import load_plugins

__all__ = ["add_tasks_dir", "steering_configs_dir", "tasks_dir", "tasks_dirs"]

_PACKAGE = Path(__file__).resolve().parent
_plugin_dirs: dict[Path, None] = {}


def tasks_dir() -> Path:
    """Return the folder of the lm-eval task files that come with this package."""
    return _data_dir("tasks")


def add_tasks_dir(folder: str | Path) -> None:
    """Let a plug-in add a folder of benchmarks, each in a folder of its own as in ours."""
    _plugin_dirs[Path(folder)] = None


def tasks_dirs() -> tuple[Path, ...]:
    """Return the folders of task files: ours, and those of plug-ins."""
    load_plugins()
    return (tasks_dir(), *_plugin_dirs)


def steering_configs_dir() -> Path:
    """Return the folder of the steering files that come with this package."""
    return _data_dir("steering_configs")


def _data_dir(name: str) -> Path:
    installed = _PACKAGE / "data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
