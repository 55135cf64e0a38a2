"""What is in profiles, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_moe.identity import Identity
from lm_eval_moe.profiles.files import read_profile
from lm_eval_moe.profiles.profile import Profile
from lm_eval_moe.tables import aligned

__all__ = ["show_profiles"]

_HEADER_FIELDS = ("language", "span", "steering")
"""What the provenance repeats of the header and the items."""


def show_profiles(paths: Sequence[Path]) -> str:
    """Return a block of aligned lines for every file.

    Raises:
        UserError: A file cannot be read.
    """
    return "\n\n".join(_block(read_profile(path, counts=True)) for path in paths)


def _block(profile: Profile) -> str:
    lines = _of_dump(profile) if profile.is_dump else _of_profile(profile)
    return "\n".join([str(profile.path), *aligned(lines, left=2)])


def _of_dump(profile: Profile) -> list[tuple[str, str]]:
    return [
        ("model", "not recorded"),
        ("routing", str(profile.shape)),
        ("format", "JSON counts, pooled"),
        ("tokens", f"{profile.tokens[0]:,}"),
    ]


def _of_profile(profile: Profile) -> list[tuple[str, str]]:
    header = profile.header
    lines = [
        ("model", str(header.model)),
        ("routing", str(profile.shape)),
        ("span", str(header.span)),
        ("steering", header.steering or "none"),
        ("items", _rows(profile)),
        ("tokens", f"{profile.tokens.sum():,}"),
    ]
    for field in ("language", "benchmark", "task"):
        for value, (items, tokens) in sorted(profile.totals_by(field).items()):
            lines.append((field, f"{value or 'not recorded'}: {items:,} {_plural('row', items)}, {tokens:,} tokens"))
    provenance = {name: value for name, value in (header.provenance or {}).items() if name not in _HEADER_FIELDS}
    return lines + _provenance(provenance) + _identity(header.identity)


def _identity(identity: Identity | None) -> list[tuple[str, str]]:
    """Return what the routing depends on, but for the configs, which are long."""
    if identity is None:
        return [("identity", "not recorded")]
    parts = {name: value for name, value in identity.parts.items() if not name.endswith("config")}
    return [("identity", identity.hash), *_provenance(parts), *_provenance(identity.tasks)]


def _provenance(entries: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten whatever was recorded, so that what a later version adds is shown, too."""
    lines: list[tuple[str, str]] = []
    for name, value in entries.items():
        if isinstance(value, Mapping):
            lines += _provenance(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            for number, part in enumerate(value, 1):
                lines += _provenance(part, f"{prefix}{name}.{number}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append((f"{prefix}{name}", "none" if value is None else text))
    return lines


def _rows(profile: Profile) -> str:
    items = sum(1 for item in profile.items if item.item)
    pooled = len(profile.items) - items
    parts = [f"{items:,}"] if items or not pooled else []
    return " and ".join([*parts, *([f"{pooled:,} pooled {_plural('row', pooled)}"] if pooled else [])])


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
