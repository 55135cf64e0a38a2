"""A benchmark's tasks by language and run: averages over languages, and runs compared with each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.pairing import TaskPairing
from lm_eval_moe.results.marks import Mark, divergence_marks, score_marks, why_not_compared
from lm_eval_moe.results.run import Run
from lm_eval_moe.results.values import Average, Divergence, ErrorKind, Metric, Score, is_number
from lm_eval_moe.statistics import (
    ALPHA,
    ClusteredValues,
    ControlGain,
    Difference,
    Estimate,
    Judgement,
    corrected,
    gain_over_controls,
    independent_mean,
    judge,
    judge_unpaired,
    same_items,
    unpaired,
)

__all__ = ["Benchmark", "LanguageResult", "ScoreGetter"]


@dataclass(frozen=True)
class LanguageResult:
    """One language's task in one run."""

    task: str
    score: Score
    divergence: Divergence
    documents: int  # 0: not known
    item_names: Mapping[int, str] | None

    @classmethod
    def of(cls, run: Run, task: str, metric: Metric, pairing: TaskPairing | None = None) -> LanguageResult | None:
        """Return a run's cell of a task; None where the run does not have the metric."""
        score = run.score(task, metric)
        if score is None:
            return None
        return cls(task, score, run.divergence(task), run.documents(task), run.item_names(task, pairing))


ScoreGetter = Callable[[LanguageResult], Score | None]


@dataclass(frozen=True)
class Benchmark:
    """Parallel tasks of several languages in several runs.

    Attributes:
        name: The benchmark.
        metric: The main metric of its tasks.
        higher_is_better: Its direction.
        reference: The reference language, None if no run captured routing.
        runs: The first is the baseline.
        languages: In the order of `arrange`, which is that of all benchmarks beside this one.
        cells: One mapping a run, by language.
        tasks: The benchmark's task by language; a run may have it without the metric.
    """

    name: str
    metric: Metric
    higher_is_better: bool
    reference: str | None
    runs: tuple[Run, ...]
    languages: tuple[str, ...]
    cells: tuple[dict[str, LanguageResult], ...]
    tasks: Mapping[str, str] = field(default_factory=dict)
    _layouts: dict[Hashable, _Layout] = field(default_factory=dict, compare=False, repr=False)

    def of_runs(self, numbers: Sequence[int]) -> Benchmark:
        """Return the same of some of the runs only."""
        return replace(
            self,
            runs=tuple(self.runs[number] for number in numbers),
            cells=tuple(self.cells[number] for number in numbers),
            _layouts={},
        )

    @property
    def common(self) -> tuple[str, ...]:
        """The languages that every run has."""
        return tuple(lang for lang in self.languages if all(lang in cells for cells in self.cells))

    @property
    def others(self) -> tuple[str, ...]:
        """The languages that every run has, but for the reference."""
        return tuple(lang for lang in self.common if lang != self.reference)

    @property
    def has_divergence(self) -> bool:
        """Whether the divergence of any cell is known."""
        return any(cell.divergence.middle for cells in self.cells for cell in cells.values())

    def missing(self, run: int) -> tuple[list[str], list[str]]:
        """Return the languages whose task a run has without the metric, and those that it lacks."""
        missing = [lang for lang in self.languages if lang not in self.cells[run]]
        unscored = [lang for lang in missing if self.tasks.get(lang) in self.runs[run].table]
        return unscored, [lang for lang in missing if lang not in unscored]

    @property
    def averages(self) -> list[tuple[str, tuple[str, ...]]]:
        """What is averaged in its tables, by name: all languages, and all but the reference."""
        everything, non_reference = self.languages, tuple(lang for lang in self.languages if lang != self.reference)
        averages = [("average", everything)] if len(everything) > 1 else []
        return (
            [*averages, (f"without {self.reference}", non_reference)]
            if 1 < len(non_reference) < len(everything)
            else averages
        )

    def having(
        self, run: int, languages: Sequence[str] | None = None, of: ScoreGetter | None = None
    ) -> tuple[str, ...]:
        """Return the languages of which a run has a value; by default its score."""
        cells, value = self.cells[run], of or self.score_of
        candidates = self.languages if languages is None else languages
        return tuple(lang for lang in candidates if lang in cells and value(cells[lang]) is not None)

    def shared(
        self, run: int, languages: Sequence[str] | None = None, of: ScoreGetter | None = None, *, to: int = 0
    ) -> tuple[str, ...]:
        """Return the languages of which both runs have a value."""
        return self.having(run, self.having(to, languages, of), of)

    def marks(self, run: int, languages: Sequence[str], *, divergence: bool = False) -> tuple[Mark, ...]:
        """Return what has to be known of a run's scores, or of its divergences, in some languages."""
        marks: list[Mark] = []
        for task in [self.cells[run][lang].task for lang in languages if lang in self.cells[run]]:
            marks += score_marks(self.runs[run], task)
            marks += divergence_marks(self.runs[run], task) if divergence else ()
        return tuple(dict.fromkeys(marks))

    def why_not_compared(self, run: int, languages: Sequence[str], *, to: int = 0) -> list[str]:
        """Return why a run's divergences are not the same quantity as another's; empty if they are."""
        tasks = [self.cells[run][lang].task for lang in self.shared(run, languages, self.divergence_of, to=to)]
        return why_not_compared(self.runs[to], self.runs[run], tasks)

    @staticmethod
    def score_of(cell: LanguageResult) -> Score:
        """Return the main metric's score."""
        return cell.score

    @staticmethod
    def divergence_of(cell: LanguageResult) -> Score | None:
        """Return the middle-layer divergence."""
        return cell.divergence.middle

    def mean(self, run: int, languages: Sequence[str], of: ScoreGetter) -> Average | None:
        """Return the mean over languages; None if one of them has no value.

        The standard error is clustered by item where the items' names are known: from the samples, else as the run
        itself computed it of the same tasks. Otherwise the languages are taken as independent, and the average says so.
        """
        scores = self._scores(run, languages, of)
        if not scores:
            return None
        if (len(scores) > 1 or scores[0].estimate.stderr is None) and all(score.items for score in scores):
            layout = self._layout(run, languages, scores)
            if layout.named or len(scores) == 1:
                values = np.concatenate([score.vector for score in scores])
                clustered = ClusteredValues(values, layout.group, layout.cluster).mean()
                return _average(clustered, "clustered by item" if len(scores) > 1 else "of one task")
        if len(scores) == 1:
            return _average(scores[0].estimate, "of one task")
        mean = independent_mean([score.estimate for score in scores])
        reported = self._reported_stderr(run, languages, scores[0].key, mean.value)
        if reported is not None:
            return Average(mean.value, reported, "clustered by item")
        return _average(mean, "languages as independent")

    def _reported_stderr(self, run: int, languages: Sequence[str], key: str, value: float) -> float | None:
        """Return the clustered standard error that the run computed of just these tasks."""
        results = self.runs[run]
        tasks = {lang: (self.cells[run][lang].task,) for lang in languages}
        for name, entry in results.routing.groups.items():
            stderr = entry.clustered_stderr.get(key)
            mean = (results.table.get(name) or {}).get(key)
            same = is_number(mean) and math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-9)
            if same and is_number(stderr) and entry.languages == tasks:
                return float(stderr)
        return None

    def difference(self, run: int, languages: Sequence[str], of: ScoreGetter, *, to: int = 0) -> Difference | None:
        """Return the mean over languages of a run minus that of another; None if a value is missing."""
        changes = self.changes(run, languages, of, to=to)
        return self._unpaired(run, languages, of, to) if changes is None else changes.difference()

    def judgement(
        self, run: int, languages: Sequence[str], of: ScoreGetter, *, to: int = 0, alpha: float = ALPHA
    ) -> Judgement | None:
        """Return `difference`, judged: item by item where the items can be paired."""
        changes = self.changes(run, languages, of, to=to)
        if changes is not None:
            return judge(changes, alpha)
        difference = self._unpaired(run, languages, of, to)
        return None if difference is None else judge_unpaired(difference, alpha)

    def judgements(self, run: int, of: ScoreGetter, *, to: int = 0, alpha: float = ALPHA) -> dict[str, Judgement]:
        """Return every shared language's judgement, corrected for each other."""
        judged = {lang: self.judgement(run, (lang,), of, to=to, alpha=alpha) for lang in self.shared(run, of=of, to=to)}
        judgements = {lang: judgement for lang, judgement in judged.items() if judgement is not None}
        return dict(zip(judgements, corrected(list(judgements.values())), strict=True))

    def _unpaired(self, run: int, languages: Sequence[str], of: ScoreGetter, to: int) -> Difference | None:
        first, second = self._scores(to, languages, of), self._scores(run, languages, of)
        if not first or not second:
            return None
        return unpaired([score.estimate for score in first], [score.estimate for score in second])

    def items(self, run: int, languages: Sequence[str]) -> list[dict[Hashable, float]] | None:
        """Return each language's scores by item, under the same key in every language; None if they are not known.

        Items without a name are told apart by language.
        """
        by_language: list[dict[Hashable, float]] = []
        for lang in languages:
            cell = self.cells[run].get(lang)
            if cell is None or cell.score.items is None:
                return None
            names = cell.item_names or {}
            by_language.append({names.get(doc_id, (lang, doc_id)): value for doc_id, value in cell.score.items.items()})
        return by_language

    def gain_over(self, controls: Sequence[int], run: int, languages: Sequence[str]) -> ControlGain | None:
        """Return a run's gain over random controls; None without one, or where the runs' items are not the same."""
        values = [self.items(number, languages) for number in (run, *controls)]
        item_scores = [run_values for run_values in values if run_values is not None]
        if not controls or len(item_scores) < len(values) or not same_items(item_scores):
            return None
        return gain_over_controls(item_scores[0], item_scores[1:], higher_is_better=self.higher_is_better)

    def changes(self, run: int, languages: Sequence[str], of: ScoreGetter, *, to: int = 0) -> ClusteredValues | None:
        """Return the items' differences (``run`` minus ``to``), a group a language and a cluster an item.

        None where a score or its items are missing, or the two runs have other documents. Items without a name are told
        apart by language: then the languages count as independent.
        """
        first, second = self._scores(to, languages, of), self._scores(run, languages, of)
        if not first or not second:
            return None
        changes = []
        for before, after in zip(first, second, strict=True):
            if before.items is None or after.items is None or not _same_documents(before, after):
                return None
            same_order = before.ids == after.ids
            after_values = after.vector if same_order else np.array([after.items[doc_id] for doc_id in before.ids])
            changes.append(after_values - before.vector)
        layout = self._layout(to, languages, first)
        return ClusteredValues(np.concatenate(changes), layout.group, layout.cluster)

    def _layout(self, run: int, languages: Sequence[str], scores: Sequence[Score]) -> _Layout:
        """Return whose values stand where; the same for all runs of the same items, so it is kept."""
        names = [self.cells[run][lang].item_names for lang in languages]
        key = tuple(languages), tuple(score.ids for score in scores), tuple(id(by_document) for by_document in names)
        if key not in self._layouts:
            self._layouts[key] = _layout_of(languages, [score.ids for score in scores], names)
        return self._layouts[key]

    def _scores(self, run: int, languages: Sequence[str], of: ScoreGetter) -> list[Score]:
        cells = self.cells[run]
        scores = [of(cells[lang]) for lang in languages if lang in cells]
        language_scores = [score for score in scores if score is not None]
        return language_scores if len(language_scores) == len(languages) else []


def _average(estimate: Estimate, kind: ErrorKind) -> Average:
    return Average(estimate.value, estimate.stderr, "unknown" if estimate.stderr is None else kind)


@dataclass(frozen=True)
class _Layout:
    """Group (language) and cluster (item) of every value, and whether the items' names were known."""

    group: NDArray[np.int64]
    cluster: NDArray[np.int64]
    named: bool


def _layout_of(
    languages: Sequence[str], ids: Sequence[tuple[int, ...]], names: Sequence[Mapping[int, str] | None]
) -> _Layout:
    numbers: dict[Hashable, int] = {}
    cluster: list[int] = []
    all_named = True
    for lang, docs, by_document in zip(languages, ids, names, strict=True):
        has_names = by_document is not None and all(doc_id in by_document for doc_id in docs)
        all_named &= has_names
        keys: list[Hashable] = [by_document[doc_id] if by_document and has_names else (lang, doc_id) for doc_id in docs]
        cluster += [numbers.setdefault(key, len(numbers)) for key in keys]
    group = np.repeat(np.arange(len(ids)), [len(docs) for docs in ids])
    return _Layout(group, np.array(cluster, dtype=np.int64), all_named)


def _same_documents(first: Score, second: Score) -> bool:
    same_ids = first.ids == second.ids or set(first.ids) == set(second.ids)
    return same_ids and (first.documents is second.documents or first.documents == second.documents)
