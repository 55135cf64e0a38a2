"""``--set interventions.0.action.soft=0.25``: change a field of a steering file without editing it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.strict_yaml import yaml_value
from lm_eval_moe.yaml_values import show

__all__ = ["apply_overrides", "key_of"]


def apply_overrides(document: Any, overrides: Iterable[str]) -> tuple[Any, tuple[tuple[str, ...], ...]]:
    """Return the document with every ``KEY=VALUE`` put in, and the paths that were replaced or created.

    A key is a dotted path with list indices; a value is parsed as YAML. A key that the document lacks is created;
    whether it is a legal one is for the validation to say. The document given is left as it is.

    Raises:
        UserError: An override is no ``KEY=VALUE``, or its path runs through a value that has no such entry.
    """
    roots: list[tuple[str, ...]] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path):
            raise UserError(
                f"{show(override)} is not KEY=VALUE",
                fix="write for example --set interventions.0.action.soft=0.25",
                where="--set",
            )
        value = yaml_value(text, where=f"--set {key.strip()}")
        document, root = _set_value(document, path, 0, value)
        roots.append(root)
    return document, tuple(roots)


def _set_value(node: Any, path: Sequence[str], depth: int, value: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a copy of ``node`` with ``value`` at ``path[done:]``; copies, since YAML aliases share their values."""
    if depth == len(path):
        return value, tuple(path)
    step, where = path[depth], f"--set {'.'.join(path)}"
    here = ".".join(path[:depth]) or "the file"
    if isinstance(node, Mapping) or node is None:
        entries: dict[Any, Any] = dict(node or {})
        same = [key for key in entries if step == (key if isinstance(key, str) else show(key))]
        if same:
            entries[same[0]], root = _set_value(entries[same[0]], path, depth + 1, value)
            return entries, root
        for name in reversed(path[depth + 1 :]):
            value = {key_of(name): value}
        return {**entries, key_of(step): value}, tuple(path[: depth + 1])
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        index = key_of(step)
        if not isinstance(index, int) or index >= len(node):
            allowed = f"an index from 0 to {len(node) - 1}" if node else "the whole list: it is empty"
            raise UserError(
                f"{here} is a list of {len(node)} entries, and {step!r} is not one of them",
                fix=f"give {allowed}",
                where=where,
            )
        items = list(node)
        items[index], root = _set_value(items[index], path, depth + 1, value)
        return items, root
    raise UserError(
        f"{here} is {show(node)} and has no entry {step!r}",
        fix=f"set the whole of it: --set '{here}={{{step}: …}}'",
        where=where,
    )


def key_of(step: str) -> str | int:
    """Return a key that is written as text as YAML would read it: list indices, layers and experts are integers."""
    return int(step) if step.isascii() and step.isdecimal() and len(step) < 10 else step
