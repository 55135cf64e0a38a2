"""An explicit steering file: the selected experts by number, with where they come from."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lm_eval_moe.experts.selection import Found, FoundByRule
from lm_eval_moe.experts.words import count, file_name, layers_in_words, profile_in_words, rule_in_words
from lm_eval_moe.shape import format_ranges
from lm_eval_moe.steering import parse_spec, resolve
from lm_eval_moe.steering.plan import PlannedIntervention
from lm_eval_moe.steering.selected_on import selected_on
from lm_eval_moe.steering.spec import VERSION
from lm_eval_moe.strict_yaml import yaml_key, yaml_quoted, yaml_value
from lm_eval_moe.wrapping import hanging

__all__ = ["explicit_document", "explicit_yaml"]

_WIDTH = 120
_KEPT = "\xa0"  # a space at which no line ends


def explicit_yaml(selection: Found) -> str:
    """Return a steering file that does what the spec does, with every expert by number.

    The same spec and profiles give the same bytes: no date, no folder and no version stand in it.
    """
    document = explicit_document(selection)
    comments = [
        "Written by `lm-eval-moe experts`: experts selected by rule, listed by number.",
        *_origins(selection, "intervention", "profile"),
        f"steering hash: {selection.plan.hash}",
    ]
    lines = [line for comment in comments for line in _comment(comment)]
    lines += [
        f"version: {document['version']}",
        f"name: {yaml_quoted(document['name'])}",
        *_text("description", document["description"]),
        *(_text("source", document["source"]) if document["source"] else []),
        f"model: {_flow(document['model'])}",
        f"seed: {document['seed']}",
        *_selected_on(document["selected_on"]),
        *_names("selected_on_texts", document["selected_on_texts"]),
        *_names("selected_on_unknown", document["selected_on_unknown"]),
        *([f"control_of: {yaml_quoted(document['control_of'])}"] if "control_of" in document else []),
        "",
        "interventions:",
    ]
    for entry, rule in zip(document["interventions"], selection.rules, strict=True):
        lines += _intervention(entry, _rule_line(rule, selection.plan.seed))
    text = "\n".join(lines) + "\n"
    _check(text, document, selection)
    return text


def explicit_document(selection: Found) -> dict[str, Any]:
    """Return what the file holds."""
    plan, shape = selection.plan, selection.plan.shape
    selected = selected_on(plan)
    description = plan.description.strip()
    if description and not description.endswith((".", "!", "?")):
        description += "."
    sentences = [f"{origin}." for origin in _origins(selection, "Experts of intervention", "Profile")]
    return {
        "version": VERSION,
        "name": plan.name,
        "description": " ".join([description, *sentences]).strip(),
        "source": plan.source,
        "model": {"layers": shape.depth, "experts": shape.experts, "top_k": shape.top_k},
        "seed": plan.seed,
        "selected_on": _by_benchmark(selected.items),
        "selected_on_texts": list(selected.texts),
        "selected_on_unknown": [file_name(source) for source in selected.unknown],
        **({"control_of": plan.control_of} if plan.control_of else {}),
        "interventions": [
            {
                "layers": _layers(rule),
                "experts": {"ids": _ids(rule.planned)},
                **rule.planned.dump(),
            }
            for rule in selection.rules
        ],
    }


def _by_benchmark(items: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the items that experts were selected on: a run on them is refused, as with the profiles themselves."""
    keys: dict[str, list[str]] = {}
    for benchmark, item in items:
        keys.setdefault(benchmark, []).append(item)
    return keys


def _selected_on(items: dict[str, list[str]]) -> Iterator[str]:
    if items:
        yield "selected_on:"
    for benchmark, keys in items.items():
        yield from _names(yaml_key(benchmark, indent=2), keys)


def _names(key: str, names: Sequence[str]) -> Iterator[str]:
    """Yield a list over as many lines as it needs; nothing where there is none."""
    if not names:
        return
    line, indent = f"{key}: [", " " * (len(key) - len(key.lstrip()) + 2)
    for place, name in enumerate(names):
        entry = yaml_quoted(name) + (", " if place < len(names) - 1 else "]")
        if len(line) + len(entry.rstrip()) > _WIDTH and line.strip():
            yield line.rstrip()
            line = indent
        line += entry
    yield line


def _layers(rule: FoundByRule) -> str | list[str]:
    parts = format_ranges(rule.layers).split(", ")
    return parts[0] if len(parts) == 1 else parts


def _ids(planned: PlannedIntervention) -> dict[int, Any]:
    ids: dict[int, Any] = {}
    for layer, targets in planned.targets.items():
        if all(coefficient == 1 for coefficient in targets.coefficients):
            ids[layer] = list(targets.experts)
        else:
            ids[layer] = dict(zip(targets.experts, targets.coefficients, strict=True))
    return ids


def _rule_line(rule: FoundByRule, seed: int) -> str:
    return f"{rule_in_words(rule.rule, seed)}; {layers_in_words(rule)}; {count(len(rule.choices), 'expert')}"


def _origins(selection: Found, intervention: str, profile: str) -> list[str]:
    """Return where the experts come from, a text for every rule and profile, in the caller's words for the two."""
    rules = [
        f"{intervention} {rule.planned.index}: {_rule_line(rule, selection.plan.seed)}" for rule in selection.rules
    ]
    return rules + [
        f"{profile} {file_name(source.given)}: {profile_in_words(source)}" for source in selection.plan.profiles
    ]


def _intervention(entry: dict[str, Any], rule: str) -> Iterator[str]:
    yield from _comment(rule, "  ")
    yield f"  - layers: {_flow(entry['layers'])}"
    yield "    experts:"
    yield "      ids:"
    for layer, experts in entry["experts"]["ids"].items():
        entries = _flow(experts).replace(": ", f":{_KEPT}")
        yield from (line.replace(_KEPT, " ") for line in hanging(f"        {layer}: ", entries, _WIDTH))
    yield f"    action: {_flow(entry['action'])}"
    yield f"    guard: {_flow(entry['guard'])}"
    yield f"    tokens: {entry['tokens']}"
    yield f"    languages: {_flow(entry['languages'])}"


def _comment(text: str, indent: str = "") -> list[str]:
    """Write a comment; what goes on is indented."""
    first, *more = hanging(f"{indent}# ", text, _WIDTH)
    rest = textwrap.wrap(
        " ".join(line.strip() for line in more),
        _WIDTH - len(indent) - 4,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [first, *(f"{indent}#   {line}" for line in rest)]


def _flow(value: Any) -> str:
    """Write plain values on one line; floats are the shortest that read back as the same."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):  # a name, a range or a language: `no` is Norwegian here, but not to every reader
        return json.dumps(value) if value in ("no", "on", "off", "yes", "y", "n") else value
    return json.dumps(value, allow_nan=False)


def _text(key: str, text: str) -> list[str]:
    """Write a text over several lines where it is one plain paragraph, otherwise in quotes."""
    paragraph = text.isprintable() and text == " ".join(text.split())
    if not paragraph or len(key) + len(text) + 4 <= _WIDTH:
        return [f"{key}: {yaml_quoted(text)}"]
    return [f"{key}: >-", *hanging("  ", text, _WIDTH)]


def _check(text: str, document: dict[str, Any], selection: Found) -> None:
    """Read the file back: what is written must do exactly what was resolved."""
    spec = parse_spec(yaml_value(text, where="the file to write"), source="the file to write")
    content = spec.to_dict()  # leaves out what is empty
    same = all(content.get(key, type(value)()) == value for key, value in document.items() if key != "interventions")
    if not same or resolve(spec, selection.plan.shape).hash != selection.plan.hash:
        raise AssertionError("the explicit file does not say what the rules select")
