"""Checking the parts of a manifest, each refused in plain words."""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_moe.errors import did_you_mean
from lm_eval_moe.multilingual.languages import language_info
from lm_eval_moe.pairing.entries import checked_language
from lm_eval_moe.yaml_values import YamlValue, show

__all__ = [
    "LanguageEntry",
    "checked_groups",
    "checked_items",
    "checked_languages",
    "checked_metrics",
    "checked_pairs",
    "checked_patterns",
    "checked_strings",
    "checked_variants",
]

REFERENCE = "en"
_PLACEHOLDERS = ("language", "config", "file", "variant")
_KEY = re.compile(r"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")


@dataclass(frozen=True)
class LanguageEntry:
    """One language of a manifest."""

    key: str
    language: str
    config: str | None
    file: str
    strings: Mapping[str, Any]
    fields: Mapping[str, Any]


def checked_languages(languages: YamlValue) -> tuple[LanguageEntry, ...]:
    """Return the languages, in their order, or raise UserError."""
    entries = languages.mapping("languages: {en: eng_Latn, sw: {config: swh_Latn}}")
    if not entries:
        raise languages.error("there are no languages", "name at least one")
    return tuple(_language(key, entry) for key, entry in entries.items())


def _language(key: object, entry: YamlValue) -> LanguageEntry:
    options = entry
    if isinstance(entry.value, str) or entry.value is None:
        options = YamlValue(entry.place, {"config": entry.value} if entry.value else {})
    fields = options.keys([], ["config", "file", "language", "strings", "fields"])
    language = checked_language(fields.get("language", YamlValue(entry.place, key)))
    name = _name(key, entry)
    if "language" not in fields and name != language:
        raise entry.error(
            f"{show(name)} is not the tag of this language, {language!r} is",
            f"write {language}, or, for another variety of it, add language: {language}",
        )
    language_info(language)  # it has to be in the table
    return LanguageEntry(
        key=name,
        language=language,
        config=fields["config"].words() if "config" in fields else None,
        file=fields["file"].words() if "file" in fields else name,
        strings=checked_strings(fields.get("strings")),
        fields=checked_strings(fields.get("fields")),
    )


def checked_strings(field: YamlValue | None) -> dict[str, Any]:
    """Return values by name, none at all where nothing is given, or raise UserError."""
    if field is None or field.value is None:
        return {}
    return {_text_name(name, entry): entry.value for name, entry in field.mapping("{name: value}").items()}


def checked_variants(field: YamlValue | None) -> dict[str, dict[str, Any]]:
    """Return the strings of each variant; none at all where there are no variants."""
    if field is None or field.value is None:
        return {}
    if isinstance(field.value, list):
        variants: dict[str, dict[str, Any]] = {
            _name(entry.value, entry): {} for entry in field.items("variants: [easy, hard]")
        }
    else:
        like = "variants: [easy, hard] or {easy: {level: low}}"
        variants = {_name(name, entry): checked_strings(entry) for name, entry in field.mapping(like).items()}
    if not variants:
        raise field.error("there are no variants", "name at least one, or leave the key out")
    return variants


def checked_groups(field: YamlValue | None, keys: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the keys of the languages of each further group."""
    if field is None or field.value is None:
        return {}
    groups = {}
    for name, entry in field.mapping("groups: {african: [sw, yo]}").items():
        members = [member.choice(keys) for member in entry.items("[sw, yo]")] if entry.value != "all" else list(keys)
        if not members:
            raise entry.error("there are no languages", "name some, or write all")
        groups[_name(name, entry)] = tuple(members)
    return groups


def checked_metrics(field: YamlValue) -> list[tuple[str, str | None, bool]]:
    """Return metrics, their filters, and whether averages weight tasks by their size."""
    metrics = []
    for entry in field.items("metrics: [acc]"):
        metric = YamlValue(entry.place, {"metric": entry.value}) if isinstance(entry.value, str) else entry
        fields = metric.keys(["metric"], ["filter", "weight_by_size"])
        of_filter = fields["filter"].words() if "filter" in fields else None
        by_size = "weight_by_size" in fields and fields["weight_by_size"].flag()
        metrics.append((fields["metric"].words(), of_filter, by_size))
    if not metrics:
        raise field.error("there are no metrics", "name at least one, such as acc")
    return metrics


def checked_patterns(field: YamlValue | None) -> tuple[str, ...]:
    """Return the names of lm-eval's tasks with their placeholders; none where the tasks are this package's own."""
    if field is None:
        return ()
    entries = [field] if isinstance(field.value, str) else field.items("lm_eval: [xnli_{language}]")
    if not entries:
        raise field.error("there are no tasks", "name at least one, such as xnli_{language}")
    for entry in entries:
        try:
            names = [name for _, name, *_ in string.Formatter().parse(entry.words()) if name is not None]
        except ValueError as error:
            raise entry.error(f"{show(entry.value)}: {error}", "write a literal brace twice: {{") from error
        for name in names:
            if name not in _PLACEHOLDERS:
                raise entry.error(
                    f"{{{name[:60]}}} in {show(entry.value)} is unknown{did_you_mean(name, _PLACEHOLDERS)}",
                    f"the placeholders are {', '.join(_PLACEHOLDERS)}",
                )
    return tuple(entry.words() for entry in entries)


def checked_pairs(field: YamlValue, languages: Collection[str]) -> str | None:
    """Return why there is no English counterpart, or None where there is one."""
    if field.value is True:
        if REFERENCE not in languages:
            raise field.error("true, but English is not among the languages", "say in a sentence why it is missing")
        return None
    if not isinstance(field.value, str) or " " not in field.value.strip():
        raise field.error(
            f"expected true or a sentence, got {show(field.value)}", "say why items have no English counterpart"
        )
    return field.words()


def checked_items(field: YamlValue) -> str:
    """Return how many items a language has, as text."""
    return field.words() if isinstance(field.value, str) else str(field.integer(1, 10**9))


def _text_name(name: object, entry: YamlValue) -> str:
    """Return the key of a mapping's entry, which has to be text."""
    if not isinstance(name, str):
        raise entry.error(f"expected a name as text, got {show(name)}", "put it in quotes")
    return name


def _name(name: object, entry: YamlValue) -> str:
    if not isinstance(name, str) or not _KEY.fullmatch(name):
        raise entry.error(f"{show(name)} is not a key", "use letters and digits, with - or _ between")
    return name
