"""Settings as JSON holds them, and in what those of two commands differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["plain", "setting_differences"]

_MOST = 10
"""Settings that are named; a file that was edited may differ in any number of them."""


def plain(value: Any) -> Any:
    """Return what JSON can hold, the same in every process."""
    return json.loads(json.dumps(value, default=_text, sort_keys=True))


def _text(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


def setting_differences(before: Mapping[str, Any], now: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Say which settings differ, one a line: ``limit was 10, is 20``.

    Args:
        before: The settings of before, which may be nested.
        now: Those of now.
        names: The outermost names to compare; an early release may have recorded more.
    """
    outer_names = list(names)
    old, new = (_flat({name: settings.get(name) for name in outer_names}) for settings in (before, now))
    differences = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    lines = [f"{name:.60} was {old.get(name)!s:.80}, is {new.get(name)!s:.80}" for name in differences[:_MOST]]
    return [*lines, f"and {len(differences) - _MOST} more"] if len(differences) > _MOST else lines


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
