"""What ``lm-eval-moe ls`` lists: benchmarks, tasks, groups and languages as rows of text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.languages import canonical_language
from lm_eval_moe.multilingual.groups import groups_of
from lm_eval_moe.multilingual.languages import known_languages
from lm_eval_moe.multilingual.manifest import BenchmarkTask, Manifest
from lm_eval_moe.tables import csv_text, markdown_table

__all__ = [
    "Listing",
    "as_text",
    "list_benchmarks",
    "list_groups",
    "list_languages",
    "list_tasks",
    "pairing_of",
]


@dataclass(frozen=True)
class Listing:
    """A table: headers, and rows of text, number or list of text."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str | int | tuple[str, ...], ...], ...]

    def text(self, row: Sequence[str | int | tuple[str, ...]]) -> list[str]:
        """Return a row as text, lists joined by spaces."""
        return [" ".join(cell) if isinstance(cell, tuple) else str(cell) for cell in row]


def pairing_of(manifest: Manifest) -> str:
    """Say whether a benchmark's items pair with English, and what names them."""
    if manifest.no_pairs is not None:
        return f"no: {manifest.no_pairs}"
    return "yes, by row" if manifest.item is None else f"yes, by {' and '.join(manifest.item)}"


def list_benchmarks(manifests: Sequence[Manifest]) -> Listing:
    """Return one row a benchmark: the group of all its tasks, and the facts of the manifest."""
    return Listing(
        ("group", "kind", "languages", "items", "paired with English", "dataset", "licence"),
        tuple(
            (m.group, m.kind, m.languages, m.items, pairing_of(m), m.dataset, m.licence)
            for m in _sort_manifests(manifests)
        ),
    )


def list_tasks(manifests: Sequence[Manifest], language: str | None = None) -> Listing:
    """Return one row a task, of all languages or of one.

    Raises:
        UserError: The language is none that a benchmark has.
    """
    tag = _tag(language)
    rows = {  # by name: lm-eval's own tasks can be in two benchmarks
        task.name: (task.name, task.language, m.kind, m.items, pairing_of(m), _source(m, task), m.licence)
        for m in _sort_manifests(manifests)
        for task in m.tasks
        if tag in (None, task.language)
    }
    return Listing(
        ("task", "language", "kind", "items", "paired with English", "dataset", "licence"), tuple(rows.values())
    )


def list_groups(manifests: Sequence[Manifest], language: str | None = None) -> Listing:
    """Return one row a group: how many tasks and languages it has, and the metrics that it averages over them."""
    tag = _tag(language)
    rows = []
    for m in _sort_manifests(manifests):
        averages = tuple(f"{metric.name} ({metric.filter})" if metric.filter else metric.name for metric in m.metrics)
        language_of = {task.name: task.language for task in m.tasks}
        groups = {group["group"]: group for group in groups_of(m)}

        def tasks_in(name: str, groups: dict[str, dict[str, list[str]]] = groups) -> list[str]:
            if name not in groups:
                return [name]
            return [task for member in groups[name]["task"] for task in tasks_in(member, groups)]

        for name in groups:
            tasks = tasks_in(name)
            languages = {language_of[task] for task in tasks}
            if tag in (None, *languages):
                rows.append((name, len(tasks), len(languages), averages))
    return Listing(("group", "tasks", "languages", "averages"), tuple(rows))


def list_languages(manifests: Sequence[Manifest], language: str | None = None) -> Listing:
    """Return one row per language that some benchmark has, with the benchmarks."""
    tag = _tag(language)
    rows = []
    for info in known_languages().values():
        having = tuple(m.name for m in _sort_manifests(manifests) if info.tag in m.languages)
        if having and tag in (None, info.tag):
            family = info.family if info.branch is None else f"{info.family}, {info.branch}"
            rows.append((info.tag, info.name, info.script, family, info.tier, having))
    return Listing(("language", "name", "script", "family", "resources", "benchmarks"), tuple(rows))


def as_text(listing: Listing, form: str) -> str:
    """Return a listing as ``markdown``, ``json`` or ``csv``."""
    if form == "json":
        records = [dict(zip(listing.headers, row, strict=True)) for row in listing.rows]
        return json.dumps(records, ensure_ascii=False, indent=2) + "\n"
    if form == "csv":
        return csv_text(listing.headers, map(listing.text, listing.rows))
    rows = [[cell.replace("|", r"\|") for cell in listing.text(row)] for row in listing.rows]
    return "\n".join(markdown_table(listing.headers, rows, left=len(listing.headers))) + "\n"


def _sort_manifests(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Scored benchmarks first, then those that only give text."""
    return sorted(manifests, key=lambda m: (m.kind == "routing", m.name))


def _tag(language: str | None) -> str | None:
    """Return the canonical tag of the language asked for."""
    if language is None:
        return None
    fix = "lm-eval-moe ls languages shows those that there are"
    try:
        tag = canonical_language(language)
    except ValueError as error:
        raise UserError(str(error), fix=fix, where="--language") from error
    if tag not in known_languages():
        near = did_you_mean(tag, known_languages())
        raise UserError(f"no benchmark has {language!r}{near}", fix=fix, where="--language")
    return tag


def _source(manifest: Manifest, task: BenchmarkTask) -> str:
    return f"{manifest.dataset} ({task.config})" if task.config else manifest.dataset
