"""From the files that a user gives to what analyses are computed from."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lm_eval_moe.analysis._inputs import AnalysisInputs, AnalysisSettings, LanguageRouting
from lm_eval_moe.errors import RoutingWarning, UserError, did_you_mean
from lm_eval_moe.languages import canonical_language
from lm_eval_moe.profiles import Profile, ProfilePath, ProfileStore, check_alike, common_shape, read_profile
from lm_eval_moe.results import Run, latest, read_results
from lm_eval_moe.results.routing import ModelShape
from lm_eval_moe.shape import RoutingShape, format_ranges
from lm_eval_moe.yaml_values import YamlPlace

__all__ = ["read_inputs"]

_ALIKE = "give profiles of one model, captured alike"


def read_inputs(
    profiles: Sequence[str],
    *,
    reference: str = "en",
    benchmark: str | None = None,
    task: tuple[str, str] | None = None,
    results: Sequence[Path] = (),
    accuracies: Path | None = None,
    settings: AnalysisSettings | None = None,
) -> AnalysisInputs:
    """Read what is known of the files, and check that they are of one model; routing is read when it is needed.

    Args:
        profiles: Paths of profiles, each for all languages that it holds, or ``sw=FILE`` for one of them. JSON counts
            do not say their language, and need the second form.
        reference: The language that the others are compared with.
        benchmark: Only the items of this benchmark; None: those of all, which are then pooled.
        task: A profile of a task's text, and one of general text in the same language.
        results: Results files of evaluations of the model, or folders of them.
        accuracies: CSV file with the columns ``language`` and ``accuracy``.
        settings: What can be chosen.

    Raises:
        UserError: A file cannot be read or is of another model or shape, a language is there twice or not at all, or
            no profile has items of the benchmark.
    """
    languages_and_paths = [_language_and_path(argument) for argument in profiles]
    if not languages_and_paths:
        raise UserError("no profile is given", fix="give the profiles of at least one language", where="PROFILE")
    paths = [path for _, path in languages_and_paths]
    for language, path in languages_and_paths:
        if path.suffix == ".json" and language is None:
            raise UserError(
                "holds JSON counts, which do not say their language", fix=f"write en={path}", where=str(path)
            )
    read = {path: read_profile(path, counts=True) for path in dict.fromkeys([*paths, *map(Path, task or ())])}
    shape = common_shape(list(read.values()), _ALIKE)
    full_profiles = [profile for profile in read.values() if not profile.is_dump]
    for profile in full_profiles[1:]:
        check_alike(full_profiles[0], profile, ("model", "span", "steering"), _ALIKE)
    if benchmark is not None:
        _check_benchmark(benchmark, [read[path] for path in dict.fromkeys(paths)])
    store = ProfileStore(shape)
    languages: dict[str, LanguageRouting] = {}
    for language, path in languages_and_paths:
        for tag, rows in _rows(language, read[path], benchmark).items():
            if tag in languages:
                raise UserError(
                    f"the language {tag} is in {languages[tag].given.path}, too",
                    fix="give every language once; `lm-eval-moe profile merge` puts items of one language together",
                    where=str(path),
                )
            profile_path = _path(path)
            languages[tag] = LanguageRouting(tag, profile_path, store.load(profile_path), rows)
    tag = _tag(reference, "--reference")
    if tag not in languages:
        raise UserError(
            f"there is no profile of {tag}", fix=f"the profiles are of {', '.join(languages)}", where="--reference"
        )
    head = (full_profiles or list(read.values()))[0].header  # JSON counts say nothing
    pair = (_path(Path(task[0])), _path(Path(task[1])), None) if task else None
    return AnalysisInputs(
        shape=shape,
        reference=tag,
        languages=languages,
        store=store,
        model=head.model,
        span=head.span,
        steering=head.steering,
        task=pair,
        benchmark=benchmark,
        runs=_runs(results, shape),
        accuracies=_accuracies(accuracies) if accuracies else {},
        accuracies_name=accuracies.name if accuracies else "",
        settings=settings or AnalysisSettings(),
    )


def _language_and_path(argument: str) -> tuple[str | None, Path]:
    language, equals, path = argument.partition("=")
    if not equals or Path(argument).is_file():
        return None, Path(argument)
    return _tag(language, f"PROFILE {argument}"), Path(path)


def _path(path: Path) -> ProfilePath:
    if path.suffix not in (".safetensors", ".json"):
        raise UserError("is not a profile", fix="give a file that ends in .safetensors or .json", where=str(path))
    return ProfilePath(str(path), path, YamlPlace("PROFILE", path.parent))


def _tag(language: str, where: str) -> str:
    try:
        return canonical_language(language)
    except ValueError as error:
        raise UserError(str(error), fix="give a code like en, sw or zh-Hant", where=where) from error


def _check_benchmark(benchmark: str, profiles: Sequence[Profile]) -> None:
    benchmarks: dict[str, None] = {}
    for profile in profiles:
        profile_benchmarks = dict.fromkeys(item.benchmark for item in profile.items if item.benchmark)
        if not profile_benchmarks:
            raise UserError(
                "does not say of which benchmark its counts are", fix="leave out --benchmark", where=str(profile.path)
            )
        benchmarks |= profile_benchmarks
    if benchmark not in benchmarks:
        raise UserError(
            f"no profile has items of {benchmark!r}{did_you_mean(benchmark, benchmarks)}",
            fix=f"give one of {', '.join(benchmarks)}",
            where="--benchmark",
        )


def _rows(language: str | None, profile: Profile, benchmark: str | None) -> dict[str, tuple[int, ...]]:
    """Return the rows of every language of a file, or of the one that is named; of one benchmark, or of all."""
    if profile.is_dump:
        return {str(language): (0,)}
    if not profile.tokens.sum():
        raise UserError("holds no tokens", fix="give a profile of at least one token", where=str(profile.path))
    labels = {item.language for item in profile.items}
    if labels == {""}:  # the file does not say: take the user's word
        if language is None:
            raise UserError("does not say its language", fix=f"write en={profile.path}", where=str(profile.path))
        matching_rows = [row for row, item in enumerate(profile.items) if benchmark in (None, item.benchmark)]
        return {language: tuple(matching_rows)} if matching_rows else {}
    rows: dict[str, list[int]] = {}
    for row, item in enumerate(profile.items):
        if item.language and benchmark in (None, item.benchmark):
            rows.setdefault(_tag(item.language, str(profile.path)), []).append(row)
    if language is not None:
        if language not in rows:
            raise UserError(
                f"holds no items in {language}, it has {', '.join(rows)}",
                fix="give the profile of that language",
                where=str(profile.path),
            )
        rows = {language: rows[language]}
    return {tag: tuple(numbers) for tag, numbers in rows.items()}


def _runs(paths: Sequence[Path], shape: RoutingShape) -> tuple[Run, ...]:
    """Read results; of tasks that one folder has of several dates the newest counts."""
    labelled, superseded = latest(read_results(paths, samples=False)) if paths else ([], [])
    for notice in superseded:
        warnings.warn(
            f"the results of {notice.newer} count for {', '.join(notice.tasks)}, not those of {notice.older}",
            RoutingWarning,
            stacklevel=2,
        )
    runs: list[Run] = []
    for labelled_run in labelled:
        run = Run(replace(labelled_run, label=str(labelled_run.source)))
        _refuse_other_shape(run, shape)
        for earlier_run in runs:
            _refuse_other_run(run, earlier_run)
        runs.append(run)
    return tuple(runs)


def _refuse_other_shape(run: Run, shape: RoutingShape) -> None:
    model_shape = run.routing.model_shape
    if model_shape == ModelShape():
        return
    for title, theirs, ours in (
        ("MoE layers", model_shape.layers, shape.layers),
        ("experts", model_shape.experts, shape.experts),
        ("top-k", model_shape.top_k, shape.top_k),
    ):
        if theirs != ours:
            raise UserError(
                f"is from a model whose shape differs from the profiles': {title} {_size(theirs)}, not {_size(ours)}",
                fix="give results of the profiled model",
                where=run.label,
            )


def _size(size: int | tuple[int, ...] | None) -> str:
    return format_ranges(size) if isinstance(size, tuple) else str(size)


def _refuse_other_run(run: Run, first: Run) -> None:
    for what, theirs, ours in (
        ("model", first.raw.get("model_name"), run.raw.get("model_name")),
        ("steering", first.steering_hash, run.steering_hash),
    ):
        if theirs != ours:
            raise UserError(
                f"its {what} is {ours or 'none'}, that of {first.label} is {theirs or 'none'}",
                fix="give results of one model, steered alike",
                where=run.label,
            )
    twice = sorted(set(run.tasks) & set(first.tasks))
    if twice:
        raise UserError(
            f"has the task {twice[0]}, which is in {first.label}, too", fix="give every task once", where=run.label
        )


def _accuracies(path: Path) -> dict[str, float]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            columns = [name.strip() for name in table.fieldnames or ()]
            table.fieldnames = columns
            for column in ("language", "accuracy"):
                if column not in columns:
                    raise UserError(
                        f"has no column {column!r}{did_you_mean(column, columns)}",
                        fix="write a first line `language,accuracy`",
                        where=str(path),
                    )
            accuracies: dict[str, float] = {}
            for row in table:
                where = f"{path}: line {table.line_num}"
                language = _tag((row["language"] or "").strip(), where)
                if language in accuracies:
                    raise UserError(f"the language {language} is given twice", fix="give it once", where=where)
                accuracies[language] = _number(row["accuracy"], where)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", fix="give a CSV file", where=str(path)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"is not CSV text: {error}", fix="give a CSV file", where=str(path)) from error
    return accuracies


def _number(text: str | None, where: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"the accuracy {text!r} is not a number", fix="write it like 0.764", where=where)
    return number
