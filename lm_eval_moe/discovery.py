"""Import every module of a folder, so that a new action or selection rule is one new file and nothing else."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from importlib import import_module

__all__ = ["import_siblings"]


def import_siblings(package: str, path: Iterable[str]) -> None:
    """Import all modules of ``package``; the classes in them register themselves with their base class.

    Args:
        package: The package's ``__name__``.
        path: The package's ``__path__``.
    """
    for module in pkgutil.iter_modules(path):
        import_module(f"{package}.{module.name}")
