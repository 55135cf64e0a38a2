"""The sections of the page: benchmarks, profiles and sweeps, each with its figures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.long_lists import Note, counted
from lm_eval_moe.number_text import Scale, p_number
from lm_eval_moe.report.figures import BENCHMARK, PROFILES, SWEEP, BenchmarkSubject, ProfilesSubject, ReportFigure
from lm_eval_moe.report.findings import Finding, findings, notes
from lm_eval_moe.report.table import TableRow, curve_rows, score_rows
from lm_eval_moe.report.wording import listing, plural
from lm_eval_moe.results import Benchmark, Run
from lm_eval_moe.results.sweep_finding import GAIN_HEADS
from lm_eval_moe.results.sweeps import SweepBenchmark, SweepReport

if TYPE_CHECKING:
    from lm_eval_moe.analysis import AnalysisInputs

__all__ = [
    "BenchmarkSection",
    "NamedFigure",
    "ProfileSection",
    "SweepSection",
    "benchmark_sections",
    "profile_sections",
    "sweep_sections",
]

_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class NamedFigure:
    """A figure and the name of its files, which no other figure of the report has."""

    name: str
    figure: ReportFigure


@dataclass(frozen=True)
class BenchmarkSection:
    """Scores by language and run."""

    benchmark: Benchmark
    findings: list[Finding]
    notes: list[Note]
    rows: list[TableRow]
    figures: list[NamedFigure]
    curves: list[tuple[str, tuple[str, ...]]]
    unit: str
    items: str


@dataclass(frozen=True)
class ProfileSection:
    """What profiles of one model say."""

    title: str
    lead: str
    figures: list[NamedFigure]
    missing: list[str]
    profiles: list[tuple[str, str, str, str, str, str, str]]  # file, SHA-256, model, span, steering, items, languages


@dataclass(frozen=True)
class SweepSection:
    """One benchmark of a sweep."""

    title: str
    lead: str
    figures: list[NamedFigure]
    columns: list[str]
    labels: int
    rows: list[tuple[str, ...]]
    settings: list[tuple[str, str]]


def benchmark_sections(
    benchmarks: Sequence[Benchmark], profile_sets: Sequence[AnalysisInputs]
) -> list[BenchmarkSection]:
    """Return a section a benchmark; curves that a profile of the same items gives with intervals stand there."""
    sections = []
    for benchmark in benchmarks:
        covered = any(_covers(inputs, benchmark) for inputs in profile_sets)
        related = [inputs for inputs in profile_sets if _is_of(inputs, benchmark.runs[0])]
        figures, missing = BENCHMARK.drawn(BenchmarkSubject(benchmark, related, covered))
        sections.append(
            BenchmarkSection(
                benchmark,
                findings(benchmark),
                [*notes(benchmark), *missing],
                score_rows(benchmark),
                _named_figures(figures, benchmark.name),
                [] if covered else curve_rows(benchmark),
                Scale(benchmark.metric).unit,
                _items(benchmark),
            )
        )
    return sections


def _is_of(inputs: AnalysisInputs, run: Run) -> bool:
    """Whether profiles may be of a run's model in its state: the results need not say its shape."""
    layers = run.layers
    same_shape = not layers or tuple(layers) == tuple(inputs.shape.layers)
    return same_shape and inputs.steering == run.steering_hash


def _covers(inputs: AnalysisInputs, benchmark: Benchmark) -> bool:
    languages = [inputs.languages[lang] for lang in benchmark.cells[0] if lang in inputs.languages]
    return (
        len(languages) == len(benchmark.cells[0])
        and _is_of(inputs, benchmark.runs[0])
        and inputs.reference == benchmark.reference
        and not any(routing.is_dump for routing in languages)
        and all(any(name == benchmark.name for name, _ in routing.items) for routing in languages)
    )


def profile_sections(profile_sets: Sequence[AnalysisInputs], runs: Sequence[Run]) -> list[ProfileSection]:
    """Return a section for all profiles that belong together."""
    sections = []
    for number, inputs in enumerate(profile_sets, start=1):
        matching_runs = [run if not run.layers or run.layers == inputs.shape.layers else None for run in runs]
        figures, missing = PROFILES.drawn(ProfilesSubject(inputs, matching_runs))
        several = f" {number}" if len(profile_sets) > 1 else ""
        sections.append(
            ProfileSection(
                f"Routing{_texts(inputs) if several else ''}",
                _lead(inputs),
                _named_figures(figures, f"routing{several}"),
                missing,
                _profiles(inputs),
            )
        )
    return sections


def _texts(inputs: AnalysisInputs) -> str:
    names = dict.fromkeys(
        item.benchmark for routing in inputs.languages.values() for item in routing.profile.items if item.benchmark
    )
    return f" over {listing(list(names)[:3])}" if names else ""


def _lead(inputs: AnalysisInputs) -> str:
    shape = inputs.shape
    tokens = sum(sum(routing.tokens.values()) for routing in inputs.languages.values())
    parts = [
        f"{plural(len(inputs.languages), 'language')}, {tokens} tokens{_texts(inputs)}, in "
        f"{plural(len(shape.layers), 'layer')} of {shape.experts} experts, top {shape.top_k}"
    ]
    if inputs.model:
        parts.append(f"model {inputs.model}")
    if inputs.span:
        parts.append(f"captured tokens: {inputs.span}")
    parts.append(f"steered ({inputs.steering[:16]})" if inputs.steering else "unsteered")
    return "; ".join(parts) + "."


def _profiles(inputs: AnalysisInputs) -> list[tuple[str, str, str, str, str, str, str]]:
    from lm_eval_moe.analysis import profiles_of

    return [
        (
            profile["file"],
            profile["sha256"],
            profile["model"] or _NONE,
            profile["span"] or _NONE,
            profile["steering"][:16] if profile["steering"] else "none",
            "pooled" if profile["items"] is None else str(profile["items"]),
            counted(profile["languages"], "languages"),
        )
        for profile in profiles_of(inputs)
    ]


def sweep_sections(sweeps: Sequence[SweepReport]) -> list[SweepSection]:
    """Return a section for every benchmark of every sweep."""
    return [_sweep(sweep, benchmark) for sweep in sweeps for benchmark in sweep.benchmarks]


def _sweep(sweep: SweepReport, benchmark: SweepBenchmark) -> SweepSection:
    scale, name = Scale(benchmark.metric), benchmark.whole
    names = list(benchmark.cells[0].fields) if benchmark.cells else []
    rows = []
    for cell in benchmark.cells:
        effect = cell.effects.get(name)
        if effect is None:
            continue
        over = effect.over_control
        changes = [effect.gain.value, effect.control, over.gain if over else None]
        texts = [_NONE if value is None else scale.change(value) for value in changes]
        ends = [(over.low, over.high), (over.new_draw_low, over.new_draw_high)] if over else [None, None]
        intervals = [scale.interval(pair) or _NONE for pair in ends]
        numbers = [_NONE if p is None else p_number(p) for p in (over.rank_p if over else None, effect.corrected_p)]
        rows.append((*cell.printed, str(cell.experts), *texts, *intervals, *numbers))
    parts = [plural(len(benchmark.cells), "cell")]
    if benchmark.cells and (effect := benchmark.cells[0].effects.get(name)) is not None:
        of = f", mean of {len(benchmark.languages)} languages" if len(benchmark.languages) > 1 else f" in {name}"
        draws = len(effect.over_control.per_control) if effect.over_control else 0
        parts.append(f"baseline {benchmark.metric.title} {scale.value(effect.baseline)}{of}")
        parts.append(f"{plural(draws, 'random control')} per cell")
    if benchmark.waiting:
        parts.append(f"{plural(benchmark.waiting, 'cell')} not run yet")
    figures, missing = SWEEP.drawn(benchmark)
    return SweepSection(
        f"Sweep {sweep.name}: {benchmark.benchmark}",
        " ".join(["; ".join(parts) + ".", *missing]),
        _named_figures(figures, f"sweep_{sweep.name}_{benchmark.benchmark}"),
        [*names, "experts", "gain", "control", "over control", *GAIN_HEADS],
        len(names),
        rows,
        [(key.replace("_", " "), _setting(value)) for key, value in sweep.settings.items() if value not in (None, {})],
    )


def _setting(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_setting(entry)}" for key, entry in value.items() if entry is not None)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def _named_figures(figures: Mapping[str, ReportFigure], name: str) -> list[NamedFigure]:
    start = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.")[:80] or "figures"
    return [NamedFigure(f"{start}_{stem}".removesuffix("_sweep"), figure) for stem, figure in figures.items()]


def _items(benchmark: Benchmark) -> str:
    counts = sorted({count for cells in benchmark.cells for cell in cells.values() if (count := cell.documents)})
    if not counts:
        return ""
    return plural(counts[0], "item") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} items"
