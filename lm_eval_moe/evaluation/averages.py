"""Averages over a group's languages: one language's tasks, all but English or the reference, each resource tier.

lm-eval averages a group over its tasks, and refuses a task that is in two groups of one run. Where a group has no
subgroup for one of these averages, it is computed from the finished results and stands there as its own row.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import RoutingWarning
from lm_eval_moe.evaluation.averaged_documents import Stratum, logged_values
from lm_eval_moe.multilingual.languages import ENGLISH, by_tier
from lm_eval_moe.results.routing import GroupRouting
from lm_eval_moe.results.values import number_of
from lm_eval_moe.statistics import ClusteredValues, Estimate, independent_mean

if TYPE_CHECKING:
    from lm_eval_moe.pairing import TaskPairing

__all__ = ["add_averages"]


def add_averages(
    results: dict[str, Any], pairings: Mapping[str, TaskPairing | None], reference: str = ENGLISH
) -> dict[str, GroupRouting]:
    """Add averages over languages to the ``results`` and ``groups`` of lm-eval's results.

    For every outermost of the groups that aggregate scores, if its tasks' languages are all known, two or more: a row
    ``<group>_<language>`` for a language with several tasks (subjects, levels), ``<group>_non_english``, for another
    reference than English ``<group>_non_<reference>`` as well, and ``<group>_<tier>_resource`` for each resource tier,
    to which English never counts. Each is the mean over languages of each language's value (macro average); a
    language's value is that of its own subgroup where there is one, else the mean over its tasks. No row is added for
    tasks that a subgroup holds already, or that are the whole group. A language without a value (the reference language
    has no divergence from itself) is left out of that metric.

    The standard error of a row takes tasks as independent, as those of lm-eval's own groups do, whether there are
    samples or not. What is returned has that which is clustered by item, of rows and groups alike: the same item in
    several languages is one cluster (E. Miller, arXiv 2411.00640, section 2.2).

    Args:
        results: lm-eval's results; changed in place.
        pairings: What is known about each task of the run.
        reference: The language that routing is compared with.

    Warns:
        RoutingWarning: A row's name is taken, or a group of one group a language aggregates no scores itself.

    Returns:
        For each group that aggregates scores, and each added row: its languages with their tasks, the group that a row
        is of, and where samples allow it the clustered standard errors; for a group that cannot be taken apart, why.
    """
    run = _Run(results, pairings, reference)
    described: dict[str, GroupRouting] = {}
    for group in list(results.get("groups", {})):
        run.complete(group)
        by_language, why_not = run.languages_of(group)
        if why_not is not None:
            described[group] = GroupRouting(why_not=why_not)
            continue
        described[group] = run.describe(group, by_language)
        if run.is_outermost(group):
            for name, languages in run.missing_averages(group, by_language).items():
                if run.add_row(name, group, languages):
                    described[name] = run.describe(name, languages, of=group)
    run.warn_of_groups_without_averages()
    return described


class _Run:
    """The results of a run, and which task is which language."""

    def __init__(self, results: dict[str, Any], pairings: Mapping[str, TaskPairing | None], reference: str) -> None:
        self.results, self.pairings, self.reference = results, pairings, reference
        self.table: dict[str, dict[str, Any]] = results["results"]
        self.subtasks: dict[str, list[str]] = results.setdefault("group_subtasks", {})
        samples = results.get("samples") or {}
        self.documents = {
            task: cache(partial(logged_values, samples[task], pairing))  # asked for once per row that holds the task
            for task, pairing in pairings.items()
            if pairing is not None and task in samples
        }
        self.leaves = {group: tuple(self._leaves(group)) for group in results.get("groups", {})}

    def _leaves(self, group: str) -> list[str]:
        tasks: dict[str, None] = {}
        for child in self.subtasks.get(group, ()):
            tasks.update(dict.fromkeys(self._leaves(child) if child in self.subtasks else [child]))
        return list(tasks)

    def complete(self, group: str) -> None:
        """Say of a group of groups what its tasks agree on; lm-eval says it of groups of tasks only."""
        directions: dict[str, set[Any]] = {}
        for task in self.leaves[group]:
            for metric, higher in self.results.get("higher_is_better", {}).get(task, {}).items():
                directions.setdefault(metric, set()).add(higher)
        agreed = {metric: values.pop() for metric, values in directions.items() if len(values) == 1}
        if agreed:
            self.results.setdefault("higher_is_better", {}).setdefault(group, agreed)
        shots = {self.results.get("n-shot", {}).get(task) for task in self.leaves[group]} - {None}
        if len(shots) == 1:
            self.results.setdefault("n-shot", {}).setdefault(group, shots.pop())

    def _groups_within(self, group: str) -> set[str]:
        """Return the groups that a group holds, and those within them."""
        groups = {child for child in self.subtasks.get(group, ()) if child in self.subtasks}
        return groups.union(*map(self._groups_within, groups))

    def is_outermost(self, group: str) -> bool:
        """Whether no other group that aggregates scores holds this one."""
        return not any(group in self._groups_within(outer) for outer in self.leaves)

    def warn_of_groups_without_averages(self) -> None:
        """Warn of groups over whose languages nothing is averaged: only their subgroups, of one each, have scores."""
        for group in self.subtasks:
            scored = self._groups_within(group) & self.leaves.keys()
            if group in self.leaves or not scored:
                continue
            by_language, why_not = self.languages_of(group)
            one_each = all(len(self.languages_of(name)[0]) == 1 for name in scored)
            if why_not is None and len(by_language) > 1 and one_each:
                warnings.warn(
                    f"{group} aggregates no scores itself, so there are no averages over its {len(by_language)} "
                    "languages: give it an aggregate_metric_list",
                    RoutingWarning,
                    stacklevel=3,
                )

    def languages_of(self, group: str) -> tuple[dict[str, list[str]], str | None]:
        """Return a group's tasks by language, or why averages over languages would mean nothing."""
        by_language: dict[str, list[str]] = {}
        benchmarks: dict[str, set[str]] = {}
        for task in self._leaves(group):
            pairing = self.pairings.get(task)
            if pairing is None:
                return {}, f"the language of {task} is unknown"
            by_language.setdefault(pairing.language, []).append(task)
            benchmarks.setdefault(pairing.language, set()).add(pairing.benchmark)
        first = next(iter(benchmarks), None)
        for language, names in benchmarks.items():
            if first is not None and names != benchmarks[first]:
                return {}, f"the tasks in {language} are not those in {first}"
        return by_language, None

    def missing_averages(self, group: str, by_language: Mapping[str, list[str]]) -> dict[str, dict[str, list[str]]]:
        """Return the averages that no group of the run gives, by the name of their row."""
        if len(by_language) < 2:
            return {}
        averages = {_suffix(language): [language] for language, tasks in by_language.items() if len(tasks) > 1}
        for name, left_out in {"english": ENGLISH, _suffix(self.reference): self.reference}.items():
            if name == "english" or left_out != ENGLISH:
                averages[f"non_{name}"] = [language for language in by_language if language != left_out]
        averages |= {f"{tier}_resource": languages for tier, languages in by_tier(by_language).items()}
        existing = [set(leaves) for leaves in self.leaves.values()]
        missing = {}
        for suffix, languages in averages.items():
            tasks = {task for language in languages for task in by_language[language]}
            if tasks and tasks not in existing:
                missing[f"{group}_{suffix}"] = {language: by_language[language] for language in languages}
        return missing

    def add_row(self, name: str, group: str, by_language: Mapping[str, list[str]]) -> bool:
        """Add one average where lm-eval's tables look for it; return whether there was anything to add."""
        if name in self.table:
            warnings.warn(
                f"{name} is already the name of a task or group, so there is no average of that name",
                RoutingWarning,
                stacklevel=3,
            )
            return False
        row: dict[str, Any] = {}
        for key in self._scores(group):
            metric, _, filtered = key.partition(",")
            parts = self._parts(metric, filtered, by_language)
            if parts:
                row[key] = fmean(part.value for part in parts)
                stderr = independent_mean(parts).stderr
                row[f"{metric}_stderr,{filtered}"] = "N/A" if stderr is None else stderr
        if not row:
            return False
        size = sum(self.table[task].get("sample_len", 0) for tasks in by_language.values() for task in tasks)
        self.table[name] = {"alias": name, "name": name, "sample_len": size, **row}
        self.results["groups"][name] = dict(self.table[name])
        self.subtasks[name] = []  # without members, so that it stands below its group
        for field in ("versions", "n-shot", "higher_is_better"):
            if group in self.results.get(field, {}):
                self.results[field][name] = self.results[field][group]
        return True

    def describe(self, name: str, by_language: Mapping[str, list[str]], of: str | None = None) -> GroupRouting:
        """Return what a row is made of, with the clustered standard errors of its metrics where they can be known."""
        errors = {}
        for key, value in self._scores(name).items():
            metric, _, filtered = key.partition(",")
            parts = self._parts(metric, filtered, by_language)
            # A group may be another average than that over languages.
            if parts and math.isclose(fmean(part.value for part in parts), value, rel_tol=1e-6, abs_tol=1e-9):
                stderr = _clustered_stderr(parts)
                if stderr is not None:
                    errors[key] = stderr
        languages = {language: tuple(tasks) for language, tasks in by_language.items()}
        return GroupRouting(of=of, languages=languages, clustered_stderr=errors)

    def _scores(self, name: str) -> dict[str, float]:
        scores = {}
        for key, value in self.table[name].items():
            metric, comma, _ = key.partition(",")
            if comma and not metric.endswith("_stderr") and (number := number_of(value)) is not None:
                scores[key] = number
        return scores

    def _parts(self, metric: str, filtered: str, by_language: Mapping[str, list[str]]) -> list[_Part]:
        parts = [self._part(metric, filtered, tasks) for tasks in by_language.values()]
        return [part for part in parts if part is not None]

    def _part(self, metric: str, filtered: str, tasks: Sequence[str]) -> _Part | None:
        """Return one language's value of a metric."""
        key, error_key = f"{metric},{filtered}", f"{metric}_stderr,{filtered}"
        values = {task: value for task in tasks if (value := number_of(self.table[task].get(key))) is not None}
        if not values:
            return None
        documents = [
            self.documents[task](metric, filtered, value) if task in self.documents else None
            for task, value in values.items()
        ]
        clusters = [cluster for cluster in documents if cluster]
        mean = fmean(values.values())
        subgroup = self._subgroup(tasks, key)
        if subgroup is None or math.isclose(subgroup[key], mean, rel_tol=1e-9, abs_tol=1e-12):
            stderr = independent_mean(
                [Estimate(value, number_of(self.table[task].get(error_key))) for task, value in values.items()]
            ).stderr
            strata = [Stratum(1 / len(values), cluster) for cluster in clusters]
            return _Part(mean, stderr, strata if len(clusters) == len(values) else None)
        # The subgroup weights its tasks by size: its value is the mean over all their documents.
        pooled = Stratum(1.0, [pair for cluster in clusters for pair in cluster])
        is_pooled = len(clusters) == len(values) and math.isclose(
            pooled.mean, subgroup[key], rel_tol=1e-6, abs_tol=1e-9
        )
        return _Part(float(subgroup[key]), number_of(subgroup.get(error_key)), [pooled] if is_pooled else None)

    def _subgroup(self, tasks: Sequence[str], key: str) -> Mapping[str, Any] | None:
        """Return the scores of the group that holds just one language's several tasks."""
        if len(tasks) > 1:
            for name, leaves in self.leaves.items():
                if set(leaves) == set(tasks) and number_of(self.table[name].get(key)) is not None:
                    return self.table[name]
        return None


def _suffix(language: str) -> str:
    return language.replace("-", "_")


@dataclass(frozen=True)
class _Part(Estimate):
    """One language's value of a metric: the mean over its tasks, its standard error with them taken as independent.

    Attributes:
        strata: The documents behind it, with weights that add up to 1; None: not known.
    """

    strata: Sequence[Stratum] | None


def _clustered_stderr(parts: Sequence[_Part]) -> float | None:
    """Return the standard error of the mean of the parts, clustered by item."""
    strata: list[Stratum] = []
    for part in parts:
        if part.strata is None:
            return None
        strata += part.strata
    weights = [stratum.weight / len(parts) for stratum in strata]
    return ClusteredValues.of([stratum.values for stratum in strata], weights).mean().stderr
