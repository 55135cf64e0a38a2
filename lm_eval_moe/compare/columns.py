"""The columns of a table: which languages of which benchmark each stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lm_eval_moe.compare.settings import ColumnsBy
from lm_eval_moe.errors import UserError
from lm_eval_moe.long_lists import Note, counted, folded
from lm_eval_moe.results import Benchmark, LeftOut, Run
from lm_eval_moe.results.benchmarks import LanguageResult
from lm_eval_moe.results.marks import listed

__all__ = ["BoardColumn", "Plan", "plans"]


@dataclass(frozen=True)
class BoardColumn:
    """One column.

    Attributes:
        title: Its header.
        benchmark: The benchmark that its values are of.
        languages: The languages that are averaged.
        tested_together: Whether it is one of the tests that are corrected for each other; averages stand alone.
    """

    title: str
    benchmark: Benchmark
    languages: tuple[str, ...]
    tested_together: bool = True


@dataclass(frozen=True)
class Plan:
    """A table to be filled.

    Attributes:
        title: What it is about.
        runs: Numbers of the runs that have a task of it.
        columns: Averages first.
        divergence: Languages whose divergence is averaged, of the benchmark; empty: no such column.
        benchmark: The one benchmark of the table, None if it has several.
        notes: What has to be known of its columns.
    """

    title: str
    runs: tuple[int, ...]
    columns: tuple[BoardColumn, ...]
    divergence: tuple[str, ...]
    benchmark: Benchmark | None
    notes: tuple[Note, ...]

    @property
    def averages(self) -> int:
        """How many of the columns are averages, which stand first."""
        return sum(not column.tested_together for column in self.columns)


def plans(
    runs: Sequence[Run],
    benchmarks: Sequence[Benchmark],
    left_out: Sequence[LeftOut],
    by: ColumnsBy,
    reference: str | None,
) -> tuple[list[Plan], list[str]]:
    """Lay out the tables; return them and what is in none of them."""
    referenced = [_with_reference(benchmark, reference) for benchmark in benchmarks]
    single, notes = _single_tasks(runs, left_out)
    if by == "benchmarks":
        return ([_by_benchmark([*referenced, *single])] if referenced or single else []), notes
    tables = [_of_benchmark(benchmark, by) for benchmark in referenced]
    if single:
        tables.append(replace(_by_benchmark(single), title="tasks of no known language"))
    return tables, notes


def _with_reference(benchmark: Benchmark, reference: str | None) -> Benchmark:
    reference_language = reference or benchmark.reference or "en"
    first = [lang for lang in benchmark.languages if lang == reference_language]
    rest = sorted(lang for lang in benchmark.languages if lang != reference_language)
    return replace(benchmark, reference=reference_language, languages=(*first, *rest))


def _of_benchmark(full_benchmark: Benchmark, by: ColumnsBy) -> Plan:
    runs = _present(full_benchmark)
    benchmark = full_benchmark.of_runs(runs)
    notes: list[Note] = [note for number in range(len(runs)) for note in _missing(benchmark, number)]
    columns = [BoardColumn(name, benchmark, langs, tested_together=False) for name, langs in benchmark.averages]
    if by == "languages":
        columns += [BoardColumn(lang, benchmark, (lang,)) for lang in benchmark.languages]
    else:
        groups = _groups(benchmark.languages, by)
        columns += [BoardColumn(name, benchmark, langs) for name, langs in groups.items()]
        for name, langs in groups.items():
            notes += [f"{name}: {counted(langs, 'languages')}.", *folded(name, langs)]
        if by == "tiers" and len(benchmark.languages) > sum(map(len, groups.values())):
            notes.append("English belongs to no tier, as in the groups of tasks.")
    return Plan(benchmark.name, runs, tuple(columns), _compared(benchmark), benchmark, tuple(notes))


def _missing(benchmark: Benchmark, number: int) -> Iterator[Note]:
    """Say which of a table's languages a run lacks, and where it has the task without the metric."""
    run, (without, lacking) = benchmark.runs[number], benchmark.missing(number)
    unscored = [task for lang, task in benchmark.tasks.items() if lang in without]
    if unscored:
        metrics = dict.fromkeys(metric.key for task in unscored for metric in run.metrics(task))
        has = f"its metrics are {listed(list(metrics))}" if metrics else "it has no metric with a number"
        if all(run.is_unscored(task) for task in unscored):
            has = "it was run with --predict_only, and lm-eval's bypass of 999 is not a score"
        yield f"{run.label} has no {benchmark.metric.key} of {counted(unscored, 'tasks')}: {has}."
        yield from folded(f"Tasks without {benchmark.metric.key} in {run.label}", unscored)
    if lacking and benchmark.cells[number]:
        yield (
            f"{run.label} lacks {counted(lacking, 'languages')}: its averages are over the languages that it has, its "
            "changes over those that its baseline has, too."
        )
        yield from folded(f"Languages that {run.label} lacks", lacking)


def _groups(languages: Sequence[str], by: ColumnsBy) -> dict[str, tuple[str, ...]]:
    from lm_eval_moe.multilingual.languages import by_tier, language_info

    if by == "tiers":
        tiers = {name: tuple(members) for name, members in by_tier(languages).items()}
        return tiers or {"high": tuple(languages)}  # English alone
    attribute = {"families": "family", "scripts": "script"}[by]
    homes: dict[str, list[str]] = {}
    for lang in languages:
        try:
            name = str(getattr(language_info(lang), attribute))
        except UserError:  # a language that the table does not have
            name = "unknown"
        homes.setdefault(name, []).append(lang)
    by_size = sorted(homes, key=lambda name: (name == "unknown", -len(homes[name]), name))
    return {name: tuple(homes[name]) for name in by_size}


def _by_benchmark(wholes: Sequence[Benchmark]) -> Plan:
    runs = tuple(sorted({number for full_benchmark in wholes for number in _present(full_benchmark)}))
    columns, notes = [], list[Note]()
    for full_benchmark in wholes:
        benchmark = full_benchmark.of_runs(runs)
        columns.append(BoardColumn(full_benchmark.name, benchmark, full_benchmark.languages))
        if len(full_benchmark.languages) > 1:
            few = "" if folded("", full_benchmark.languages) else f", {', '.join(full_benchmark.languages)}"
            notes.append(f"{full_benchmark.name}: average over {len(full_benchmark.languages)} languages{few}.")
            notes += folded(f"Languages of {full_benchmark.name}", full_benchmark.languages)
        notes += [note for number in range(len(runs)) for note in _missing(benchmark, number)]
    return Plan("benchmarks", runs, tuple(columns), (), None, tuple(notes))


def _present(benchmark: Benchmark) -> tuple[int, ...]:
    """Return the runs that have a task of the benchmark, if only without its metric."""
    tasks = benchmark.tasks.values()
    return tuple(
        number
        for number, run in enumerate(benchmark.runs)
        if benchmark.cells[number] or any(t in run.table for t in tasks)
    )


def _compared(benchmark: Benchmark) -> tuple[str, ...]:
    """Return the languages whose divergence to the reference any run knows."""
    with_divergence = {
        lang for run in range(len(benchmark.runs)) for lang in benchmark.having(run, of=benchmark.divergence_of)
    }
    return tuple(lang for lang in benchmark.languages if lang in with_divergence and lang != benchmark.reference)


def _single_tasks(runs: Sequence[Run], left_out: Sequence[LeftOut]) -> tuple[list[Benchmark], list[str]]:
    """Let every task of no known language be a benchmark of its own; say which tasks cannot be shown."""
    benchmarks, notes = [], []
    for entry in left_out:
        metric = entry.metric
        if metric is None:
            notes.append(f"{entry.task} is left out: {entry.reason}")
            continue
        cells = tuple({"": cell} if (cell := LanguageResult.of(run, entry.task, metric)) else {} for run in runs)
        higher = next(run for run in runs if entry.task in run.table).higher_is_better(entry.task, metric)
        benchmarks.append(Benchmark(entry.task, metric, higher, None, tuple(runs), ("",), cells, {"": entry.task}))
        notes.append(f"{entry.task} stands for itself: {entry.reason}")
    return benchmarks, notes
