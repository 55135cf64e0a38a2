"""What ``tasks/<benchmark>/benchmark.yml`` says: the one place where a benchmark's facts are written down.

The suffix is .yml, so that lm-eval, which takes every ``*.yaml`` for a task or a group, passes it by. Keys:

- ``name``: the folder's name; the tasks are ``moe_<name>_<language>``. ``title``: the name in prose.
- ``kind``: multiple_choice, generation, translation, or routing (text to profile and compare, without a score).
- ``dataset``: path on the hub. ``revision``: its commit, where one is pinned.
- ``licence``, ``citation`` (authors, title, year, arXiv or ACL id), ``homepage``.
- ``items``: how many a language has, a number or text.
- ``item``: the field or fields that name an item in every language, or ``row``.
- ``pairs_with_reference``: true, or a sentence that says why there is no English counterpart.
- ``metrics``: names, or ``{metric: exact_match, filter: flexible-extract}``; groups average them, and
  with ``weight_by_size: true`` give every item the same weight.
- ``defaults``: strings that every language has unless it has its own.
- ``languages``: tag -> the name of its configuration on the hub, or ``{config, file, language, strings, fields}``.
  ``file`` is its name in the local layout (default: the tag); ``strings`` reach the task's loader (``metadata.moe``);
  ``fields`` are written into the task's YAML as they are. A second variety of a language has its own key, such as
  ``fa_prs``, and says ``language: fa``.
- ``variants``: parts that every language has (levels, subjects): name -> strings, or a list of names.
- ``groups``: further groups, name -> list of languages, or ``all``.
- ``lm_eval``: for a benchmark that groups tasks of lm-eval's own: their names, with ``{language}``, ``{config}``,
  ``{file}`` and ``{variant}`` in them.
- ``version``: of the tasks (default 1.0). ``note``: what else to know.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.multilingual._manifest_fields import (
    checked_groups,
    checked_items,
    checked_languages,
    checked_metrics,
    checked_pairs,
    checked_patterns,
    checked_strings,
    checked_variants,
)
from lm_eval_moe.multilingual.languages import LanguageInfo, language_info
from lm_eval_moe.pairing.entries import checked_item
from lm_eval_moe.resources import tasks_dirs
from lm_eval_moe.strict_yaml import read_yaml
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

__all__ = ["KINDS", "MANIFEST_NAME", "AveragedMetric", "BenchmarkTask", "Manifest", "load_manifest", "load_manifests"]

KINDS = ("multiple_choice", "generation", "translation", "routing")
MANIFEST_NAME = "benchmark.yml"

_REQUIRED = (
    *("name", "title", "kind", "dataset", "licence", "citation", "homepage", "items", "item"),
    *("pairs_with_reference", "metrics", "languages"),
)
_OPTIONAL = ("revision", "defaults", "variants", "groups", "lm_eval", "version", "note")
_WORDS = ("name", "title", "dataset", "licence", "citation", "homepage", "revision", "note")
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class AveragedMetric:
    """A metric that groups average.

    Attributes:
        name: In lm-eval.
        filter: The filter that it is of; None: whichever there is.
        by_size: Whether tasks count by their size: where a language is several tasks, subjects of different sizes, its
            own average and that over languages then fit together.
    """

    name: str
    filter: str | None = None
    by_size: bool = False


@dataclass(frozen=True)
class BenchmarkTask:
    """One task of a benchmark: a language, in one variant where there are variants.

    Attributes:
        name: The task's name in lm-eval.
        key: The language's key in the manifest.
        language: Canonical tag of the language.
        variant: The variant, or None.
        config: The dataset's configuration on the hub, or None.
        file: Name in the local layout, without ``.jsonl``.
        strings: The manifest's defaults, the variant's and the language's own strings, the later ones winning.
        fields: Fields of the task's YAML.
    """

    name: str
    key: str
    language: str
    variant: str | None
    config: str | None
    file: str
    strings: Mapping[str, Any]
    fields: Mapping[str, Any]

    @property
    def info(self) -> LanguageInfo:
        """What is known about the language."""
        return language_info(self.language)


@dataclass(frozen=True)
class Manifest:
    """A benchmark's facts; the module's head says what the keys mean.

    Attributes:
        item: Fields that name an item, or None for the row.
        no_pairs: Why its items have no English counterpart, or None where they have one.
        tasks: All its tasks, in the order of the languages, then of the variants.
        groups: Names of further groups, each with the keys of its languages.
        lm_eval: Whether the tasks are lm-eval's own.
        path: The file.
    """

    name: str
    title: str
    kind: str
    dataset: str
    revision: str | None
    licence: str
    citation: str
    homepage: str
    items: str
    item: tuple[str, ...] | None
    no_pairs: str | None
    metrics: tuple[AveragedMetric, ...]
    tasks: tuple[BenchmarkTask, ...]
    variants: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    lm_eval: bool
    version: float
    note: str | None
    path: Path

    @property
    def group(self) -> str:
        """Name of the group of all the benchmark's tasks."""
        return f"moe_{self.name}"

    @property
    def languages(self) -> tuple[str, ...]:
        """Canonical tags, each once, in the manifest's order."""
        return tuple(dict.fromkeys(task.language for task in self.tasks))

    def identity(self, variant: str | None) -> str:
        """Return the name under which items of all languages pair (``metadata.routing.benchmark``)."""
        return self.name if variant is None else f"{self.name}[{variant}]"


def load_manifests(root: Path | None = None) -> tuple[Manifest, ...]:
    """Return the manifests of all benchmarks, by name.

    Args:
        root: The folder that holds a folder a benchmark; None: the one that comes with this package, and plug-ins'.

    Raises:
        UserError: A manifest breaks the schema, or two benchmarks have one name.
    """
    folders = tasks_dirs() if root is None else (root,)
    manifests: dict[str, Manifest] = {}
    for path in (path for folder in folders for path in sorted(folder.glob(f"*/{MANIFEST_NAME}"))):
        manifest = load_manifest(path)
        if manifest.name in manifests:
            raise UserError(
                f"the benchmark {manifest.name!r} already exists, in {manifests[manifest.name].path}",
                fix="give it another name",
                where=str(path),
            )
        manifests[manifest.name] = manifest
    return tuple(manifests.values())


def load_manifest(path: Path) -> Manifest:
    """Return one benchmark's manifest.

    Raises:
        UserError: The file cannot be read or breaks the schema; the message names the key.
    """
    top = YamlValue(YamlPlace(str(path), path.parent), read_yaml(path, "manifest"))
    fields = top.keys(_REQUIRED, _OPTIONAL)
    words: dict[str, Any] = {name: fields[name].words() if name in fields else None for name in _WORDS}
    if not _NAME.fullmatch(words["name"]) or words["name"] != path.parent.name:
        raise fields["name"].error(
            f"expected the folder's name, {path.parent.name!r}, got {words['name'][:60]!r}",
            "use lower-case letters, digits and _ only",
        )
    variants = checked_variants(fields.get("variants"))
    tasks = _tasks(fields, words["name"], variants)
    groups = checked_groups(fields.get("groups"), tuple(dict.fromkeys(task.key for task in tasks)))
    _check_group_names(words["name"], groups, variants, tasks, fields.get("groups", top))
    return Manifest(
        **words,
        kind=fields["kind"].choice(KINDS),
        items=checked_items(fields["items"]),
        item=checked_item(fields["item"]),
        no_pairs=checked_pairs(fields["pairs_with_reference"], {task.language for task in tasks}),
        metrics=tuple(AveragedMetric(*pair) for pair in checked_metrics(fields["metrics"])),
        tasks=tasks,
        variants=tuple(variants),
        groups=MappingProxyType(groups),
        lm_eval="lm_eval" in fields,
        version=fields["version"].number(0, 1000) if "version" in fields else 1.0,
        path=path,
    )


def _tasks(
    fields: Mapping[str, YamlValue], name: str, variants: Mapping[str, Mapping[str, Any]]
) -> tuple[BenchmarkTask, ...]:
    defaults = checked_strings(fields.get("defaults"))
    patterns = checked_patterns(fields.get("lm_eval"))
    tasks: list[BenchmarkTask] = []
    for entry in checked_languages(fields["languages"]):
        for variant, variant_strings in variants.items() if variants else ((None, {}),):
            part = "_".join((*((variant,) if variant else ()), entry.key.replace("-", "_")))
            for pattern in patterns or (f"moe_{name}_{part}",):
                names = {"language": entry.language, "config": entry.config, "file": entry.file, "variant": variant}
                tasks.append(
                    BenchmarkTask(
                        name=_fill_pattern(pattern, names, fields["lm_eval"]) if patterns else pattern,
                        key=entry.key,
                        language=entry.language,
                        variant=variant,
                        config=entry.config,
                        file=entry.file,
                        strings=MappingProxyType({**defaults, **variant_strings, **entry.strings}),
                        fields=MappingProxyType(dict(entry.fields)),
                    )
                )
    for name, count in Counter(task.name for task in tasks).items():
        if count > 1:
            raise fields["languages"].error(
                f"two languages or variants lead to the same task {name}",
                "give them keys that differ in more than - and _, or put {language}, {config} or {variant} into "
                "lm_eval",
            )
    return tuple(tasks)


def _fill_pattern(pattern: str, names: Mapping[str, str | None], field: YamlValue) -> str:
    for name, value in names.items():
        if value is None and f"{{{name}}}" in pattern:
            raise field.error(
                f"{pattern!r} names {{{name}}}, and the language {names['language']!r} has none",
                f"give every language its {name}",
            )
    return pattern.format(**names)


def _check_group_names(
    manifest_name: str, groups: Iterable[str], variants: Iterable[str], tasks: Iterable[BenchmarkTask], field: YamlValue
) -> None:
    existing = {task.name for task in tasks} | {f"moe_{manifest_name}_{variant}" for variant in variants}
    for name in groups:
        if name.endswith(("non_english", "_resource")) or f"moe_{manifest_name}_{name}" in existing:
            raise field.error(
                f"the group moe_{manifest_name}_{name} already exists",
                "choose a name other than those of the languages, variants and averages",
            )
