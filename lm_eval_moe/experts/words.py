"""Rules, profiles and actions in words, the same on the terminal, in a written file and over a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval_moe.experts.selection import FoundByRule
from lm_eval_moe.experts.shapes import profile_paths
from lm_eval_moe.long_lists import counted, folded
from lm_eval_moe.shape import format_ranges
from lm_eval_moe.steering import ProfileSource
from lm_eval_moe.steering.plan import PlannedIntervention
from lm_eval_moe.steering.selectors import Selector
from lm_eval_moe.steering.selectors.random_control import RandomControl

__all__ = [
    "action_in_words",
    "count",
    "file_name",
    "layers_in_words",
    "profile_in_words",
    "rule_in_words",
    "rule_with_size",
]


def rule_in_words(rule: Selector, seed: int, *, short: bool = False) -> str:
    """Write a rule with its fields: ``task (profile a.safetensors, baseline b.safetensors, threshold 0.4)``.

    Args:
        rule: The rule.
        seed: The steering file's, which a random control without one of its own takes.
        short: Count the profiles and languages of long lists.
    """
    if isinstance(rule, RandomControl):
        return f"{_control(rule, seed)} {rule_in_words(rule.like, seed, short=short)}"
    if not rule.declared():
        return rule.name
    paths = {path.given for path in profile_paths(rule)}
    fields = (_field(name, value, paths, short) for name, value in rule.dump().items())
    return f"{rule.name} ({', '.join(fields)})"


def rule_with_size(rule: Selector, seed: int) -> str:
    """Write a rule with its sizes and thresholds alone, without its profiles: ``task, threshold 0.4``."""
    values = {name: getattr(rule.matched, name) for name, option in rule.matched.declared().items() if option.brief}
    sizes = [
        f"{name} {value if isinstance(value, str) else format(value, 'g')}"
        for name, value in values.items()
        if value is not None
    ]
    text = ", ".join([rule.matched.name, *sizes])
    return f"{_control(rule, seed)} {text}" if isinstance(rule, RandomControl) else text


def _control(rule: RandomControl, seed: int) -> str:
    return f"random control (seed {seed if rule.seed is None else rule.seed}) of"


def action_in_words(intervention: PlannedIntervention) -> str:
    """Write the action and its limits: ``soft 0.5; without guard; tokens: all; languages: all``."""
    dumped = intervention.action.dump()
    action = dumped if isinstance(dumped, str) else " ".join(f"{name} {value:g}" for name, value in dumped.items())
    languages = intervention.languages.dump()
    if isinstance(languages, Mapping):
        spoken = f"all but {', '.join(languages['all_but'])}"
    else:
        spoken = languages if isinstance(languages, str) else ", ".join(languages)
    guard = "" if intervention.action.guards_by is None else f"; {'with' if intervention.guard else 'without'} guard"
    return f"{action}{guard}; tokens: {intervention.tokens}; languages: {spoken}"


def profile_in_words(source: ProfileSource) -> str:
    """Write what a profile is, without where it lies."""
    parts = [f"sha256 {source.sha256}"]
    if source.model is not None:
        parts.append(f"model {source.model}")
    parts.append("pooled counts" if source.items is None else count(source.items, "item"))
    if source.span is not None:
        parts.append(f"span {source.span}")
    if source.steering:
        parts.append(f"captured under the steering {source.steering[:16]}")
    return _one_line(", ".join(parts))


def file_name(path: str) -> str:
    """Return the name of a file without its folder: where it lies is no part of what was selected."""
    return _one_line(Path(path).name)


def _one_line(text: str) -> str:
    """Escape what would end a line or a comment: file and model names can hold anything."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def count(number: int, noun: str) -> str:
    """Write ``1 expert``, ``2 experts``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def layers_in_words(rule: FoundByRule) -> str:
    """Write the layers that a rule is applied to."""
    return f"{'layer' if len(rule.layers) == 1 else 'layers'} {format_ranges(rule.layers)}"


def _field(name: str, value: Any, files: set[str], short: bool) -> str:
    if isinstance(value, Mapping):
        entries = [f"{key}={file_name(part) if part in files else part}" for key, part in value.items()]
        return f"{name} {_entries(entries, short)}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"{name} {_entries([*map(str, value)], short)}"
    if isinstance(value, float):
        return f"{name} {value:g}" if float(f"{value:g}") == value else f"{name} {value!r}"
    return f"{name} {file_name(value) if value in files else value}"


def _entries(texts: Sequence[str], short: bool) -> str:
    return f"({counted(texts, 'entries')})" if short and folded("", texts) else " ".join(texts)
