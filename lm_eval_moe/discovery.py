"""How what extends the tool is found: the modules of a folder of ours, and plug-ins of anybody's.

A plug-in is a module that is imported before the tool looks into any registry: one that an installed package names in
the entry-point group ``lm_eval_moe.plugins``, or that the environment variable ``LM_EVAL_MOE_PLUGINS`` names (several
are separated by commas). What it defines registers itself, as our own modules do.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from lm_eval_moe.errors import UserError, did_you_mean

__all__ = [
    "GROUP",
    "VARIABLE",
    "Registry",
    "failing_as_user_error",
    "import_siblings",
    "imported_when_used",
    "load_plugins",
    "module_names",
    "plugin_files",
]

GROUP = "lm_eval_moe.plugins"
"""The entry-point group."""

VARIABLE = "LM_EVAL_MOE_PLUGINS"
"""The environment variable that names modules."""

T = TypeVar("T")

_ROOT = Path(__file__).parent
_loaded: list[str] | None = None
"""The modules of the plug-ins; None before they are looked for."""


def import_siblings(package: str, path: Iterable[str]) -> None:
    """Import all modules of ``package``; what they define registers itself.

    Args:
        package: The package's ``__name__``.
        path: The package's ``__path__``.
    """
    for module in pkgutil.iter_modules(path):
        import_module(f"{package}.{module.name}")


def load_plugins() -> None:
    """Import the plug-ins, once in a process.

    Raises:
        UserError: One of them cannot be imported.
    """
    global _loaded
    if _loaded is not None:  # also while they are being loaded, for what a plug-in itself looks up
        return
    _loaded = []
    modules = [(entry.module, f"the entry point {entry.name!r} of {GROUP}") for entry in entry_points(group=GROUP)]
    modules += [(name.strip(), VARIABLE) for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    try:
        for name, where in dict(modules).items():
            with failing_as_user_error(f"the plug-in {name}", where, "fix the module, or remove it"):
                import_module(name)
            _loaded.append(name)
    except UserError:
        _loaded = None
        raise


def plugin_files(*further: str) -> dict[str, list[Path]]:
    """Return the Python files on whose code results may depend, by module: all of the package that it is a part of.

    Args:
        further: Modules that are used beside the plug-ins, such as that of a model's class; ours do not count.
    """
    load_plugins()
    files = {}
    for name in (*(_loaded or ()), *further):
        top = name.partition(".")[0]
        if top != __name__.partition(".")[0]:
            folders = getattr(sys.modules[top], "__path__", ())
            alone = getattr(sys.modules[name], "__file__", None)
            sources = sorted(file for folder in folders for file in Path(folder).rglob("*.py"))
            files[name] = sources or ([Path(alone)] if alone else [])
    return files


@contextmanager
def failing_as_user_error(what: str, where: str, fix: str) -> Iterator[None]:
    """Turn what code of somebody else's fails with into one message.

    Raises:
        UserError: It failed.
    """
    try:
        yield
    except (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{what} fails: {type(error).__name__}: {error}", fix=fix, where=where) from error


class Registry(Mapping[str, T]):
    """Things of one kind by name. The plug-ins are loaded when it is first looked into.

    Args:
        kind: What they are, for messages.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[str, T] = {}
        self._homes: dict[str, str] = {}

    def add(self, name: str, entry: T, made_by: type | Callable[..., object] | str) -> None:
        """Enter something; to define the same anew replaces it.

        Args:
            name: Its name.
            entry: What it is.
            made_by: The class or function that it comes from, or ``module:Class`` for one that is not imported yet.

        Raises:
            UserError: There is another one of that name.
        """
        home = made_by if isinstance(made_by, str) else f"{made_by.__module__}:{made_by.__qualname__}"
        there = self._homes.setdefault(name, home)
        if there != home:
            new, old = (place.partition(":")[0] for place in (home, there))
            raise UserError(f"the {self._kind} {name!r} of {new} already exists, in {old}", fix="choose another name")
        self._entries[name] = entry

    def look_up(self, name: str, where: str) -> T:
        """Return what has a name that a user gave.

        Args:
            name: The name.
            where: The flag that it was given with.

        Raises:
            UserError: Nothing has it.
        """
        if name not in self:
            problem = f"there is no {self._kind} {name!r}{did_you_mean(name, self)}"
            raise UserError(problem, fix=f"choose among {', '.join(self)}", where=where)
        return self[name]

    def copy(self) -> Registry[T]:
        """Return a registry of the same entries: what is entered there is not entered here."""
        copied: Registry[T] = Registry(self._kind)
        copied._entries, copied._homes = dict(self._entries), dict(self._homes)
        return copied

    def __getitem__(self, name: str) -> T:
        load_plugins()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(self._entries)

    def __len__(self) -> int:
        load_plugins()
        return len(self._entries)


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
