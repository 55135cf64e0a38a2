"""What is in profiles, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_moe.identity import Identity
from lm_eval_moe.profiling.reading import Overview, overview
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering.layers import format_ranges
from lm_eval_moe.tables import aligned

__all__ = ["show_profiles"]

_SAID = ("language", "span", "steering")
"""What the provenance repeats of the header and the items."""


def show_profiles(paths: Sequence[Path]) -> str:
    """Return a block of aligned lines for every file.

    Raises:
        UserError: A file cannot be read.
    """
    return "\n\n".join(_block(overview(path)) for path in paths)


def _block(found: Overview) -> str:
    lines = _of_dump(found) if found.header is None else _of_profile(found)
    return "\n".join([str(found.path), *aligned(lines, left=2)])


def _of_dump(found: Overview) -> list[tuple[str, str]]:
    return [
        ("model", "not said"),
        ("routing", _routing(found.shape)),
        ("format", "JSON counts, pooled"),
        ("tokens", f"{found.tokens[0]:,}"),
    ]


def _of_profile(found: Overview) -> list[tuple[str, str]]:
    header = found.header
    assert header is not None
    lines = [
        ("model", header.model),
        ("routing", _routing(found.shape)),
        ("span", header.span),
        ("steering", header.steering or "none"),
        ("items", _rows(found)),
        ("tokens", f"{sum(found.tokens):,}"),
    ]
    for field, label in (("language", "language"), ("benchmark", "benchmark"), ("task", "task")):
        for value, (items, tokens) in sorted(found.by(field).items()):
            lines.append((label, f"{value or 'not said'}: {items:,} {_plural('row', items)}, {tokens:,} tokens"))
    made = {name: value for name, value in (header.provenance or {}).items() if name not in _SAID}
    return lines + _provenance(made) + _identity(header.identity)


def _identity(identity: Identity | None) -> list[tuple[str, str]]:
    """Return what the routing depends on, but for the configs, which are long."""
    if identity is None:
        return [("identity", "not said")]
    parts = {name: value for name, value in identity.parts.items() if not name.endswith("config")}
    return [("identity", identity.hash), *_provenance(parts), *_provenance(identity.tasks)]


def _provenance(made: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten whatever was recorded, so that what a later version adds is shown, too."""
    lines: list[tuple[str, str]] = []
    for name, value in made.items():
        if isinstance(value, Mapping):
            lines += _provenance(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
            for number, part in enumerate(value, 1):
                lines += _provenance(part, f"{prefix}{name}.{number}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append((f"{prefix}{name}", "none" if value is None else text))
    return lines


def _rows(found: Overview) -> str:
    named = sum(1 for item in found.items if item.item)
    pooled = len(found.items) - named
    parts = [f"{named:,}"] if named or not pooled else []
    return " and ".join([*parts, *([f"{pooled:,} pooled {_plural('row', pooled)}"] if pooled else [])])


def _routing(shape: RoutingShape) -> str:
    return f"layers {format_ranges(shape.layers)} of {shape.depth}, {shape.experts} experts, top {shape.top_k}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
