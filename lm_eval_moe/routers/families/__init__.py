"""One module for each family whose blocks differ from what `RoutedBlock` expects.

A new adapter is one new module here or in a plug-in, or a file of the user's own.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from lm_eval_moe.discovery import failing_as_user_error, import_siblings
from lm_eval_moe.errors import UserError
from lm_eval_moe.routers.blocks import RoutedBlock

__all__ = ["load_adapter"]

import_siblings(__name__, __path__)


def load_adapter(file: str | Path) -> tuple[type[RoutedBlock], ...]:
    """Run a user's Python file and return the adapters in it, which register themselves.

    Raises:
        UserError: There is no such file, it fails, or it has no adapter.
    """
    path = Path(file)
    spec = importlib.util.spec_from_file_location(f"lm_eval_moe_adapter_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(
            f"{str(file)!r} is not a Python file",
            fix="give a .py file as described in docs/adapters.md",
            where="--model_args adapter",
        )
    with failing_as_user_error(str(file), "--model_args adapter", "fix the file"):
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    members = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    adapters = tuple(
        value for value in members if isinstance(value, type) and issubclass(value, RoutedBlock) and value.class_names
    )
    if not adapters:
        raise UserError(
            f"{str(file)!r} has no adapter: no subclass of RoutedBlock whose class_names say which blocks it is for",
            fix="write one as described in docs/adapters.md",
            where="--model_args adapter",
        )
    return adapters
