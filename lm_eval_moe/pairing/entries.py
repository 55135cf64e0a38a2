"""Reading a file that says which tasks are translations of each other, and refusing it in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lm_eval_moe.languages import canonical_language
from lm_eval_moe.strict_yaml import read_yaml
from lm_eval_moe.yaml_values import YamlPlace, YamlValue, show

__all__ = [
    "FILE_VERSION",
    "TaskEntry",
    "checked_item",
    "checked_language",
    "load_entries",
]

FILE_VERSION = 1
_ENTRY_LIKE = "{tasks: 'mine_(?P<lang>[a-z]+)', benchmark: mine, item: row}"


@dataclass(frozen=True)
class TaskEntry:
    """One rule: the tasks whose names match, and how their items pair.

    Attributes:
        pattern: Matches the whole task name. The group ``lang`` is the language; other named groups are variants that
            belong to the benchmark's identity.
        benchmark: Name of the benchmark, without the variants.
        item: Document fields that name an item in every language, or None for the row index.
        language: Language of all the entry's tasks, where their names do not tell.
        languages: Canonical language for spellings that are not language codes or would be misread.
        lacks: Languages in which no task of this benchmark exists.
        note: What to know about the pairing.
        place: File and key path, for messages.
    """

    pattern: re.Pattern[str]
    benchmark: str
    item: tuple[str, ...] | None
    language: str | None
    languages: Mapping[str, str]
    lacks: frozenset[str]
    note: str | None
    place: YamlPlace

    def language_of(self, match: re.Match[str]) -> str:
        """Return the canonical language of a matched task name.

        Raises:
            UserError: The spelling in the name is not a language code and ``languages`` does not explain it.
        """
        if self.language is not None:
            return self.language
        spelling = match["lang"]
        if spelling is None:
            raise (self.place / "tasks").error(
                f"the task {match.string} matches without a language: the group 'lang' matched nothing",
                "make the group 'lang' match in every name, or give the tasks without one an entry of their own with "
                "'language'",
            )
        if spelling in self.languages:
            return self.languages[spelling]
        try:
            return canonical_language(spelling)
        except ValueError as error:
            raise (self.place / "languages").error(
                f"the task {match.string} matches, but {error}",
                f"say which language it is, languages: {{{spelling}: TAG}}, or change the regex so that it does not "
                "match",
            ) from error

    def benchmark_of(self, match: re.Match[str]) -> str:
        """Return the benchmark's identity for a matched task name: ``afrimgsm[mode=cot,prompt=1]``."""
        groups = {name: text for name, text in match.groupdict().items() if name != "lang" and text is not None}
        variants = ",".join(f"{name}={text}" for name, text in groups.items())
        return f"{self.benchmark}[{variants}]" if variants else self.benchmark


def load_entries(path: Path) -> tuple[TaskEntry, ...]:
    """Read the entries of one file, in their order.

    Raises:
        UserError: The file cannot be read, is not UTF-8 or YAML, or does not follow the schema.
    """
    fields = YamlValue(YamlPlace(str(path), path.parent), read_yaml(path, "parallel data")).keys(["version", "entries"])
    fields["version"].version(FILE_VERSION)
    return tuple(_parse_entry(entry) for entry in fields["entries"].items(f"entries: [{_ENTRY_LIKE}]"))


def _parse_entry(entry: YamlValue) -> TaskEntry:
    fields = entry.keys(["tasks", "benchmark", "item"], ["language", "languages", "lacks", "note"])
    pattern = _pattern(fields["tasks"])
    fixed = checked_language(fields["language"]) if "language" in fields else None
    if ("lang" in pattern.groupindex) == (fixed is not None):
        problem = "names a group 'lang' although 'language' is given" if fixed else "has no group 'lang'"
        raise fields["tasks"].error(
            f"the regex {show(pattern.pattern)} {problem}",
            "the language comes either from the task name, (?P<lang>...), or from 'language: TAG'",
        )
    lacks = fields["lacks"].items("lacks: [en]") if "lacks" in fields else []
    if lacks and "note" not in fields:
        raise entry.error("'lacks' needs a 'note' that says why", "add note: one sentence")
    aliases = fields["languages"].mapping("languages: {jp: ja}") if "languages" in fields else {}
    return TaskEntry(
        pattern=pattern,
        benchmark=fields["benchmark"].words(),
        item=checked_item(fields["item"]),
        language=fixed,
        languages={_spelling(name, field): checked_language(field) for name, field in aliases.items()},
        lacks=frozenset(map(checked_language, lacks)),
        note=fields["note"].words() if "note" in fields else None,
        place=entry.place,
    )


def checked_item(field: YamlValue) -> tuple[str, ...] | None:
    """Return what names an item: None for ``row``, else one or more fields of the documents.

    Raises:
        UserError: It is something else.
    """
    if field.value == "row":
        return None
    like = "for example item: row, item: id, or item: [link, question_number]"
    names = [field.value] if isinstance(field.value, str) else field.value
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise field.error(f"expected 'row', a field or a list of fields, got {show(field.value)}", like)
    if len(set(names)) < len(names):
        raise field.error("a field is named twice", "name each field once")
    return tuple(names)


def checked_language(field: YamlValue) -> str:
    """Return the canonical tag of a language.

    Raises:
        UserError: It is none.
    """
    if isinstance(field.value, bool):  # lm-eval's YAML 1.1 reads the code of Norwegian as false
        raise field.error(
            f"expected a language code, got {show(field.value)}", "put the code in quotes: 'no' can be false in YAML"
        )
    try:
        return canonical_language(field.words())
    except ValueError as error:
        raise field.error(str(error), "give a BCP 47 tag or an ISO 639 code, such as sw or swh_Latn") from error


def _spelling(name: object, field: YamlValue) -> str:
    if not isinstance(name, str):
        raise field.error(f"expected a spelling as text, got {show(name)}", "put it in quotes")
    return name


def _pattern(field: YamlValue) -> re.Pattern[str]:
    text = field.words()
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:  # repeated or nested too often
        raise field.error(
            f"{show(text)} is not a regular expression: {error}", "the syntax is that of Python's re"
        ) from error
