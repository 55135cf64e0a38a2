"""What a report is made of: results, profiles and sweeps, told apart by what is in the files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_moe.compare.selection import choose_runs, named_path
from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.escaping import printable
from lm_eval_moe.results import LabelledRun, Run
from lm_eval_moe.results.files import contents_of, find_results
from lm_eval_moe.results.labels import unique_labels
from lm_eval_moe.results.sweeps import SweepReport, is_sweep, read_sweep

if TYPE_CHECKING:
    from lm_eval_moe.analysis import AnalysisInputs

__all__ = ["Sources", "in_order", "read_profiles", "read_sources"]


@dataclass(frozen=True)
class Sources:
    """What was read.

    Attributes:
        runs: The first is the baseline.
        profile_sets: Profiles that belong together.
        sweeps: Folders of sweeps.
        notes: What was left aside.
    """

    runs: tuple[LabelledRun, ...] = ()
    profile_sets: tuple[AnalysisInputs, ...] = ()
    sweeps: tuple[SweepReport, ...] = ()
    notes: tuple[str, ...] = ()


def read_sources(paths: Sequence[str], *, reference: str = "en", baseline: str | None = None) -> Sources:
    """Read files and directories.

    Args:
        paths: Results JSON files, profiles, folders of sweeps, or directories with any of them. ``NAME=PATH`` gives a
            run its label; JSON counts of routing need ``LANG=PATH``.
        reference: The language that profiles are compared with.
        baseline: Label of the run that the others are compared with; by default the first unsteered one.

    Raises:
        UserError: A path does not exist, holds nothing that a report can show, or is damaged; or no run has the label.
    """
    results: list[str] = []
    profiles: list[str] = []
    folders: list[Path] = []
    notes: list[str] = []
    for argument in paths:
        name, path = named_path(argument)
        if not path.exists():
            raise UserError(
                "there is no such file or directory",
                fix="give results files, profiles, folders of sweeps, or directories with them",
                where=argument,
            )
        if path.is_dir():
            has_results, own_profiles, own_sweeps = _inside(path, notes)
            if name and (own_sweeps or not has_results):
                raise UserError(
                    f"a name is given to a directory {'with a sweep' if own_sweeps else 'without results'}",
                    fix="give the folders of sweeps and profiles without a name",
                    where=argument,
                )
            results += [argument] if has_results else []
            profiles += map(str, own_profiles)
            folders += own_sweeps
        elif path.suffix == ".safetensors":
            profiles.append(argument)
        elif path.name == "table.json" and is_sweep(path.parent):
            folders.append(path.parent)
        elif _is_count_dump(path):
            profiles.append(argument)
        else:
            results.append(argument)
    sweeps = [read_sweep(folder) for folder in dict.fromkeys(folder.resolve() for folder in folders)]
    runs = _runs(results, [sweep.folder for sweep in sweeps], notes)
    return Sources(
        tuple(in_order(runs, baseline)),
        tuple(read_profiles(profiles, reference=reference)),
        tuple(sweeps),
        tuple(dict.fromkeys(notes)),
    )


def in_order(runs: Sequence[LabelledRun], baseline: str | None = None) -> list[LabelledRun]:
    """Put the baseline first and random controls last; the others stay as they are.

    Raises:
        UserError: No run has the label.
    """
    labels = [run.label for run in runs]
    if baseline is not None and baseline not in labels:
        raise UserError(
            f"no run is called {baseline!r}{did_you_mean(baseline, labels)}",
            fix=f"the runs are {', '.join(map(repr, labels))}" if labels else "there are no results among the files",
            where="--baseline",
        )
    read = [Run(run) for run in runs]
    unsteered = (run.label for run in read if not run.steering)
    first = baseline if baseline is not None else next(unsteered, labels[0] if labels else "")
    placed = sorted(read, key=lambda run: (run.label != first, run.is_random_control))
    return [runs[labels.index(run.label)] for run in placed]


def read_profiles(profiles: Sequence[str], *, reference: str = "en") -> list[AnalysisInputs]:
    """Read profiles, those together that are of one model, captured alike, with other languages of the same texts.

    Raises:
        UserError: One cannot be read, or there is none of the reference language.
    """
    from lm_eval_moe.analysis import read_inputs
    from lm_eval_moe.profiles import read_profile

    groups: list[tuple[object, set[str], list[str]]] = []
    for argument in dict.fromkeys(profiles):
        name, path = named_path(argument)
        profile = read_profile(path, counts=True)
        header = profile.header
        key: object = "counts"
        if not profile.is_dump:
            texts = frozenset(item.benchmark for item in profile.items)
            key = (header.model, header.shape, header.span, header.steering, texts)
        languages = {name} if name or profile.is_dump else set(profile.languages())
        for kind, group_languages, members in groups:
            if kind == key and not group_languages & languages:
                group_languages |= languages
                members.append(argument)
                break
        else:
            groups.append((key, languages, [argument]))
    return [read_inputs(members, reference=reference) for _, _, members in groups]


def _inside(folder: Path, notes: list[str]) -> tuple[bool, list[Path], list[Path]]:
    """Return whether a directory holds results, at any depth, its profiles and its sweeps; not what lies in these."""
    if is_sweep(folder):
        return False, [], [folder]
    from lm_eval_moe.profiles import is_profile

    sweeps = sorted(path.parent for path in folder.rglob("table.json") if is_sweep(path.parent))
    profiles = []
    for path in sorted(folder.rglob("*.safetensors")):
        if any(sweep in path.parents for sweep in sweeps):
            continue
        if is_profile(path):
            profiles.append(path)
        else:
            notes.append(f"{path} is left aside: it is not a routing profile")
    has_results = _has_results(folder, sweeps)
    if not has_results and not profiles and not sweeps:
        raise UserError(
            f"no results, profile or sweep in this directory: {contents_of(folder)}",
            fix="give the folder that `run --output_path`, `profile --output` or `sweep --output` wrote",
            where=str(folder),
        )
    return has_results, profiles, sweeps


def _has_results(folder: Path, sweeps: Sequence[Path]) -> bool:
    try:
        files = find_results([folder])
    except UserError:  # there are none in it
        return False
    return any(not any(sweep in file.path.parents for sweep in sweeps) for file in files)


def _runs(results: Sequence[str], sweeps: Sequence[Path], notes: list[str]) -> list[LabelledRun]:
    if not results:
        return []
    selection = choose_runs(results)
    notes += selection.notes
    runs = [run for run in selection.runs if not run.source or not set(sweeps) & set(run.source.resolve().parents)]
    if len(runs) < len(selection.runs):  # the sweeps' own runs are in their tables; labels need not tell them apart
        names = [name for name, _ in map(named_path, results) if name]
        has_name = [run.label in names or run.label.startswith(tuple(f"{name}: " for name in names)) for run in runs]
        runs = unique_labels(
            [run if keeps_label else replace(run, label="") for run, keeps_label in zip(runs, has_name, strict=True)]
        )
    return [replace(run, label=printable(run.label)) for run in runs]


def _is_count_dump(path: Path) -> bool:
    """Whether a file is JSON counts of routing, which begin with the number of a layer."""
    if path.suffix != ".json":
        return False
    try:
        with path.open("rb") as file:
            return re.match(rb"\s*\{\s*\"\d+\"\s*:\s*\{", file.read(4096)) is not None
    except OSError:  # what reads it says what is wrong
        return False
