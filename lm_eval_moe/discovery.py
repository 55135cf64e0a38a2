"""Find the modules of a folder, so that a new action, rule, format or figure is one new file and nothing else."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["import_siblings", "imported_when_used", "module_names"]

_ROOT = Path(__file__).parent


def import_siblings(package: str, path: Iterable[str]) -> None:
    """Import all modules of ``package``; the classes in them register themselves with their base class.

    Args:
        package: The package's ``__name__``.
        path: The package's ``__path__``.
    """
    for module in pkgutil.iter_modules(path):
        import_module(f"{package}.{module.name}")


def module_names(package: str) -> list[str]:
    """Return the names of the public modules of one of our packages without importing it, for a command's help."""
    folder = _ROOT.joinpath(*package.split(".")[1:])
    return [module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_")]


def imported_when_used(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``, which imports a public name from its home when it is first used.

    Args:
        package: The package's ``__name__``.
        homes: The module of every name.
    """

    def attribute(name: str) -> Any:
        if name in homes:
            return getattr(import_module(homes[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute
