"""Where the data that comes with the package lies, from a checkout as from an installed wheel."""

from __future__ import annotations

from pathlib import Path

__all__ = ["steering_configs_dir", "tasks_dir"]

_PACKAGE = Path(__file__).resolve().parent


def tasks_dir() -> Path:
    """Return the folder of the lm-eval task files that come with this package."""
    return _data_dir("tasks")


def steering_configs_dir() -> Path:
    """Return the folder of the steering files that come with this package."""
    return _data_dir("steering_configs")


def _data_dir(name: str) -> Path:
    installed = _PACKAGE / "data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
