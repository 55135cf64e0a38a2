"""Pair the candidate's scores with the baseline's, task by task, and say why where that cannot be done."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.gate.evidence import Evidence, FlippedItem, NamedSide
from lm_eval_moe.gate.policy import Policy
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.results import Metric, Run, arrange, setup_differences
from lm_eval_moe.results.benchmarks import LanguageResult
from lm_eval_moe.results.marks import Mark, legend, score_marks
from lm_eval_moe.results.setup import unrecorded_choice
from lm_eval_moe.results.values import Score

__all__ = ["Side", "TaskPlace", "collect", "metric_of", "task_places"]


@dataclass(frozen=True)
class Side:
    """The baseline or the candidate: one run, or several files that hold different tasks of it.

    Attributes:
        name: ``baseline`` or ``candidate``.
        runs: The runs.
        registry: What is known of tasks' languages; by default of lm-eval's own.

    Raises:
        UserError: They are of several models or steerings.
    """

    name: str
    runs: tuple[Run, ...]
    registry: PairingRegistry | None = None

    def __post_init__(self) -> None:
        kinds = {(run.model, run.steering_title) for run in self.runs}
        if len(kinds) > 1:
            raise UserError(
                f"the {self.name} holds several runs: {', '.join(run.label for run in self.runs)}",
                fix="give the results of one model, under one steering",
                where=f"--{self.name}",
            )

    @property
    def label(self) -> str:
        """What the runs are called: their model and steering, which are the same for all."""
        first = self.runs[0]
        return f"{first.model} + {first.steering_title}" if first.steering else first.model

    @property
    def named(self) -> NamedSide:
        """The side as the verdict names it."""
        files = tuple(dict.fromkeys(str(run.source) for run in self.runs if run.source))
        return NamedSide(self.label, self.runs[0].steering_title, files)

    def run_of(self, task: str) -> Run | None:
        """Return the run that holds a task.

        Raises:
            UserError: Several do.
        """
        runs = [run for run in self.runs if task in run.table]
        if len(runs) > 1:
            raise UserError(
                f"{task} is in several results of the {self.name}: {', '.join(run.label for run in runs)}",
                fix="give one of them",
                where=f"--{self.name}",
            )
        return runs[0] if runs else None


@dataclass(frozen=True)
class TaskPlace:
    """Where a task stands: its benchmark and language."""

    task: str
    benchmark: str
    language: str | None
    metric: Metric
    names: Mapping[int, str] | None


def task_places(runs: Sequence[Run], registry: PairingRegistry | None = None) -> dict[str, TaskPlace]:
    """Return the place of every task of some runs; a task of no known language is a benchmark of its own."""
    benchmarks, left_out = arrange(runs, registry=registry)
    places = {}
    for benchmark in benchmarks:
        for language in benchmark.languages:
            cells: list[LanguageResult] = [of_run[language] for of_run in benchmark.cells if language in of_run]
            if cells:
                task, names = cells[0].task, cells[0].item_names
                places[task] = TaskPlace(task, benchmark.name, language, benchmark.metric, names)
    for alone in left_out:
        if alone.metric is not None:
            places[alone.task] = TaskPlace(alone.task, alone.task, None, alone.metric, None)
    return places


def metric_of(policy: Policy, place: TaskPlace) -> Metric | None:
    """Return what a policy judges of a task; None if it does not judge the task."""
    rules = policy.of(place.benchmark)
    if rules is None or (rules.languages is not None and place.language not in rules.languages):
        return None
    return Metric(*rules.metric.split(",", 1)) if rules.metric else place.metric


def collect(policy: Policy, baseline: Side, candidate: Side) -> tuple[list[Evidence], list[str]]:
    """Return the evidence of every task that is to be judged, and what else to know.

    What is to be judged is what the baseline has, as far as the policy does not say otherwise.

    Raises:
        UserError: A task is in several results of one side.
    """
    places = task_places([*baseline.runs, *candidate.runs], baseline.registry)
    evidence, notes = [], []
    marks: list[Mark] = []
    skipped, unknown = [], []
    for place in places.values():
        metric = metric_of(policy, place)
        if metric is None:
            skipped.append(place.task)
            continue
        before, after = baseline.run_of(place.task), candidate.run_of(place.task)
        if before is None:
            unknown.append(place.task)
            continue
        evidence.append(_evidence(place, metric, before, after))
        for side, run in (("baseline", before), ("candidate", after)):
            if run is not None:
                marks += [replace(mark, run=f"the {side}") for mark in score_marks(run, place.task)]
        if after is not None:
            notes += [
                f"{difference.kind} differs: {difference.first} in the baseline, {difference.second} in the candidate"
                for difference in setup_differences(before, after, [place.task])
                if not difference.serious
            ]
            notes += [
                f"the {side} evaluated selected documents of {place.task} (--samples) and does not record which; "
                "whether both sides evaluated the same ones is unknown"
                for side, run in (("baseline", before), ("candidate", after))
                if unrecorded_choice(run, place.task)
            ]
    evidence += _absent(policy, list(evidence))
    if unknown:
        notes.append(f"not judged, because the baseline lacks it: {', '.join(unknown)}")
    if skipped:
        notes.append(f"not judged, because the policy does not list it: {', '.join(skipped)}")
    return evidence, list(dict.fromkeys([*legend(marks, signs=False), *notes]))


def _absent(policy: Policy, evidence: Sequence[Evidence]) -> Iterator[Evidence]:
    """Yield what the policy lists and the baseline lacks."""
    benchmarks = {entry.benchmark for entry in evidence}
    for name, rules in (policy.benchmarks or {}).items():
        have = {entry.language for entry in evidence if entry.benchmark == name}
        hint = did_you_mean(name, benchmarks) if not have else ""
        if not have and rules.languages is None:
            problem = f"the policy lists the benchmark {name}, but the baseline has no results for it{hint}"
            yield Evidence(name, None, name, problem=problem)
        for language in rules.languages or ():
            if language not in have:
                problem = f"the policy lists {language}, but the baseline has no results for it{hint}"
                yield Evidence(name, language, f"{name} {language}", problem=problem)


def _evidence(place: TaskPlace, metric: Metric, before: Run, after: Run | None) -> Evidence:
    def unjudged(problem: str) -> Evidence:
        return Evidence(place.benchmark, place.language, place.task, problem=problem)

    if after is None or place.task not in after.tasks:
        return unjudged(f"the candidate has no results for {place.task}: evaluate it as well")
    first, second = before.score(place.task, metric), after.score(place.task, metric)
    for run, score, side in ((before, first, "baseline"), (after, second, "candidate")):
        if score is None:
            has = ", ".join(option.key for option in run.metrics(place.task)) or "none"
            has += ": it was run with --predict_only" if run.is_unscored(place.task) else ""
            return unjudged(f"the {side} has no {metric.key} for {place.task}; its metrics: {has}")
    assert first  # else said above
    assert second
    serious = [difference for difference in setup_differences(before, after, [place.task]) if difference.serious]
    if serious:
        differ = "; ".join(
            f"{difference.kind} {difference.first} in the baseline, {difference.second} in the candidate"
            for difference in serious
        )
        return unjudged(f"{place.task} was set up differently: {differ}. Evaluate it as the baseline was")
    different = _different_documents(first, second)
    if different:
        return unjudged(f"{place.task}: {different}. Evaluate the same items as the baseline")
    higher = before.higher_is_better(place.task, metric)
    items = len(first.items) if first.items else after.documents(place.task)
    if not items:
        return unjudged(f"the results do not say how many items {place.task} has: evaluate with --log_samples")
    losses, has_names = _losses(first, second, place, 1 if higher else -1)
    return Evidence(
        benchmark=place.benchmark,
        language=place.language,
        task=place.task,
        before=first.estimate,
        after=second.estimate,
        items=items,
        losses=losses,
        named=has_names,
        higher_is_better=higher,
        is_share=metric.is_share,
        metric=metric.title,
        key=metric.key,
        flipped=_flipped(first, second, place),
    )


def _flipped(first: Score, second: Score, place: TaskPlace) -> list[FlippedItem]:
    if first.items is None or second.items is None:
        return []
    names = place.names or {}
    changed = [
        FlippedItem(doc_id, names.get(doc_id), value, second.items[doc_id])
        for doc_id, value in first.items.items()
        if value != second.items[doc_id]
    ]
    return sorted(changed, key=lambda item: -abs(item.after - item.before))


def _different_documents(first: Score, second: Score) -> str:
    if first.items is None or second.items is None:
        return ""
    if first.items.keys() != second.items.keys():
        return (
            f"{len(first.items.keys() - second.items.keys())} items are only in the baseline, "
            f"{len(second.items.keys() - first.items.keys())} only in the candidate"
        )
    changed = sum(second.documents.get(doc_id) != content for doc_id, content in first.documents.items())
    return f"{changed} of {len(first.items)} documents have different content" if changed else ""


def _losses(
    first: Score, second: Score, place: TaskPlace, sign: int
) -> tuple[list[tuple[Hashable, float]] | None, bool]:
    """Return the items' losses, and whether they carry names that hold in every language; else they carry the task."""
    if first.items is None or second.items is None:
        return None, False
    names = place.names or {}
    has_names = place.names is not None and first.items.keys() <= names.keys()
    return [
        (names[doc_id] if has_names else (place.task, doc_id), sign * (value - second.items[doc_id]))
        for doc_id, value in first.items.items()
    ], has_names
