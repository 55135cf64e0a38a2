"""The source files that a piece of code depends on: its own, and those that it imports of the user's."""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

__all__ = ["source_files"]

_STDLIB = Path(sysconfig.get_paths()["stdlib"])


def source_files(file: Path) -> list[Path]:
    """Return a file and the files of all modules that it imports, wherever in it, and that no version tells of.

    Modules of installed packages and of Python itself are known by their versions.

    Args:
        file: A Python file; it counts wherever it lies.

    Raises:
        OSError: It cannot be read.
    """
    found = {file: None}
    waiting = [file]
    while waiting:
        own = waiting.pop()
        stat = own.stat()
        for imported in _imports(own, stat.st_mtime_ns, stat.st_size):
            if imported not in found and _is_own(imported):
                found[imported] = None
                waiting.append(imported)
    return list(found)


@lru_cache(maxsize=4096)
def _imports(file: Path, mtime_ns: int, size: int) -> tuple[Path, ...]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # no Python: its bytes are all there is
        return ()
    return tuple(dict.fromkeys(place for name, level in _names(tree) if (place := _place(file, name, level))))


def _names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield what is imported: its dotted name, and how many folders up it begins; 0 where the name is absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name, 0) for alias in node.names for name in _with_packages(alias.name))
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = ".".join(part for part in (node.module, alias.name) if part)
                yield from ((name, node.level) for name in ("", *_with_packages(whole)) if name or node.level)


def _with_packages(name: str) -> Iterator[str]:
    """Return ``a``, ``a.b`` and ``a.b.c``: a package's own file runs before its modules."""
    return accumulate(name.split("."), "{}.{}".format)


def _place(file: Path, name: str, level: int) -> Path | None:
    folder = file.parents[level - 1] if 0 < level <= len(file.parents) else file.parent
    beside = _module_file(folder.joinpath(*name.split(".")) if name else folder)
    if beside or level or not name:
        return beside
    # Only the top of a package is asked of Python, which would run it to find what is below.
    top, *below = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):  # a module without a spec
        return None
    if spec is None:
        return None
    if not below:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    places = (_module_file(Path(location).joinpath(*below)) for location in spec.submodule_search_locations or ())
    return next((place for place in places if place), None)


def _module_file(path: Path) -> Path | None:
    """Return the file of the module or package at a path without suffix; None if there is none."""
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _is_own(file: Path) -> bool:
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return not installed and not file.is_relative_to(_STDLIB)
