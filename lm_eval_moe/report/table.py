"""The tables of a benchmark: scores and divergence by language, and divergence by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lm_eval_moe.number_text import Scale
from lm_eval_moe.results.benchmarks import Benchmark
from lm_eval_moe.results.marks import Mark, signs_of
from lm_eval_moe.statistics import Difference, Estimate, Judgement

__all__ = ["Number", "TableEntry", "TableRow", "curve_rows", "marks_of", "score_rows"]

_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Number:
    """A number as it is written: value, standard error, and the signs of what has to be known of it."""

    text: str = _NONE
    error: str = ""
    signs: str = ""


@dataclass(frozen=True)
class TableEntry:
    """What a run has in a row, and whether its difference to the baseline is beyond noise."""

    score: Number
    change: Number
    beyond: bool
    divergence: Number


@dataclass(frozen=True)
class TableRow:
    """A language, or an average over languages."""

    name: str
    detail: str
    is_average: bool
    entries: tuple[TableEntry, ...]  # one a run


def score_rows(benchmark: Benchmark) -> list[TableRow]:
    """Return a row a language, then the averages over all languages and over all but the reference."""
    runs = range(len(benchmark.runs))
    of = benchmark.score_of
    rows = []
    by_language = [benchmark.judgements(run, of) if run else {} for run in runs]
    for lang in benchmark.languages:
        detail = "reference" if lang == benchmark.reference else ""
        entries = tuple(_entry(benchmark, run, lang, [lang], by_language[run].get(lang)) for run in runs)
        rows.append(TableRow(lang, detail, False, entries))
    for name, languages in benchmark.averages:
        judged = [benchmark.judgement(run, benchmark.shared(run, languages), of) if run else None for run in runs]
        entries = tuple(_entry(benchmark, run, name, languages, judged[run]) for run in runs)
        rows.append(TableRow(name, f"{len(languages)} languages", True, entries))
    return rows


def marks_of(benchmark: Benchmark) -> list[Mark]:
    """Return all marks of the table."""
    rows = [(lang, (lang,)) for lang in benchmark.languages] + benchmark.averages
    return [
        mark
        for name, languages in rows
        for run in range(len(benchmark.runs))
        for marks in _marks(benchmark, run, name, languages)
        for mark in marks
    ]


def _marks(
    benchmark: Benchmark, run: int, name: str, languages: Sequence[str]
) -> tuple[list[Mark], list[Mark], list[Mark]]:
    """Return what has to be known of a run's score, of its change, and of its divergence in a row."""
    label, run_languages = benchmark.runs[run].label, benchmark.having(run, languages)
    score, change = list(benchmark.marks(run, run_languages)), list[Mark]()
    if 0 < len(run_languages) < len(languages):
        score.append(Mark("fewer languages", label, name, len(run_languages), len(languages)))
    mean = benchmark.mean(run, run_languages, benchmark.score_of)
    if mean is not None and mean.kind == "languages as independent":
        score.append(Mark("independent", label, name))
    shared = benchmark.shared(run, languages) if run else ()
    if shared:
        change += benchmark.marks(0, shared)
        if len(shared) < len(run_languages):
            change.append(Mark("fewer languages", label, f"the change of {name}", len(shared), len(languages)))
    compared = benchmark.having(run, languages, benchmark.divergence_of)
    divergence = list(benchmark.marks(run, compared, divergence=True))
    targets = [lang for lang in languages if lang != benchmark.reference]
    if 0 < len(compared) < len(targets):
        divergence.append(Mark("fewer languages", label, f"the divergence of {name}", len(compared), len(targets)))
    return score, change, divergence


def _entry(benchmark: Benchmark, run: int, name: str, languages: Sequence[str], change: Judgement | None) -> TableEntry:
    scale = Scale(benchmark.metric)
    score = benchmark.mean(run, benchmark.having(run, languages), benchmark.score_of)
    # The reference has no divergence from itself: an average over all languages is that over the others.
    has_divergence = benchmark.reference not in languages
    compared = benchmark.having(run, languages, benchmark.divergence_of) if has_divergence else ()
    divergence = benchmark.mean(run, compared, benchmark.divergence_of)
    marks, change_marks, divergence_marks = _marks(benchmark, run, name, languages)
    return TableEntry(
        score=_number(score, scale, marks),
        change=_number(change.difference if change else None, scale, change_marks),
        beyond=change is not None and change.beyond,
        divergence=_number(divergence, Scale(None), divergence_marks),
    )


def _number(of: Estimate | Difference | None, scale: Scale, marks: Sequence[Mark]) -> Number:
    if of is None:
        return Number()
    write = scale.change if isinstance(of, Difference) else scale.number
    return Number(write(of.value), "" if of.stderr is None else scale.number(of.stderr), signs_of(marks))


def curve_rows(benchmark: Benchmark) -> list[tuple[str, tuple[str, ...]]]:
    """Return the baseline's divergence by layer: a language and its texts, one a layer."""
    return [
        (lang, tuple(_NONE if value is None else f"{value:.3f}" for value in cell.divergence.curve))
        for lang in benchmark.languages
        if (cell := benchmark.cells[0].get(lang)) is not None and cell.divergence.curve is not None
    ]
