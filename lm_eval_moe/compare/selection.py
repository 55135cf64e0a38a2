"""Which runs stand in the leaderboard and what they are called."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lm_eval_moe.errors import UserError
from lm_eval_moe.results import LabelledRun, latest, read_results
from lm_eval_moe.results.labels import unique_labels

__all__ = ["Chosen", "choose_runs", "named_path"]


_UNCHECKED = "; that they are of the same model and prompts could not be checked, since one does not say"


@dataclass(frozen=True)
class Chosen:
    """The runs, and what was left aside on the way."""

    runs: tuple[LabelledRun, ...]
    notes: tuple[str, ...]


def named_path(argument: str) -> tuple[str, Path]:
    """Read ``PATH`` or ``NAME=PATH``; a path that exists as it stands is a path."""
    name, equals, path = argument.partition("=")
    if not equals or Path(argument).exists():
        return "", Path(argument)
    if not name.strip() or not path:
        raise UserError(f"{argument!r} lacks a {'path' if name.strip() else 'name'}", fix="write NAME=PATH")
    return name.strip(), Path(path)


def choose_runs(
    arguments: Sequence[str],
    *,
    globs: Sequence[str] = (),
    labels: Sequence[str] = (),
    tasks: Sequence[str] = (),
    samples: bool = True,
    all_dates: bool = False,
) -> Chosen:
    """Read the runs of files and directories, label and pick them.

    Args:
        arguments: ``PATH`` or ``NAME=PATH``. Where a path holds several runs, NAME comes before each one's own label.
        globs: Keep runs whose label or file fits one of them; empty: all.
        labels: ``GLOB=NAME``: the one run whose label or file fits is called NAME.
        tasks: Globs of the tasks to read; empty: all.
        samples: Read the samples logs.
        all_dates: Keep every dated file of a directory, not only the newest of each run.

    Raises:
        UserError: Nothing can be read, a glob fits nothing, or a label does not fit exactly one run.
    """
    notes: list[str] = []
    runs: list[LabelledRun] = []
    sources: set[Path] = set()
    names_and_paths = [named_path(argument) for argument in arguments]
    names = [name for name, _ in names_and_paths if name]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"the name {name!r} is given to several paths", fix="give every path a name of its own")
    for name, path in names_and_paths:
        path_runs = read_results([path], samples=samples, tasks=tasks, warn=notes.append)
        if not all_dates:
            path_runs, superseded = latest(path_runs)
            for notice in superseded:
                which = f"{len(notice.tasks)} tasks" if len(notice.tasks) > 3 else ", ".join(notice.tasks)
                unchecked = "" if notice.checked else _UNCHECKED
                notes.append(
                    f"{notice.label}: of several dates the newest counts, {notice.newer}; {notice.older} ({which}) is "
                    f"left aside. Give the files themselves to have all, or compare --all-dates{unchecked}"
                )
        if name:
            path_runs = [
                replace(run, label=name if len(path_runs) == 1 else f"{name}: {run.label}") for run in path_runs
            ]
        else:
            path_runs = [
                replace(run, label="") for run in path_runs if run.source and run.source.resolve() not in sources
            ]
        sources |= {run.source.resolve() for run in path_runs if run.source}
        runs += path_runs
    runs = _relabel(unique_labels(runs), labels)
    return Chosen(tuple(_pick(runs, globs)), tuple(dict.fromkeys(notes)))


def _fits(run: LabelledRun, glob: str) -> bool:
    texts = [run.label, *([run.source.as_posix(), run.source.name] if run.source else [])]
    return any(fnmatch.fnmatchcase(text, glob) for text in texts)


def _run_labels(runs: Sequence[LabelledRun]) -> str:
    return "the runs are " + ", ".join(repr(run.label) for run in runs)


def _relabel(runs: list[LabelledRun], labels: Sequence[str]) -> list[LabelledRun]:
    for argument in labels:
        glob, equals, name = argument.partition("=")
        if not equals or not glob.strip() or not name.strip():
            raise UserError(f"{argument!r} is not GLOB=NAME", fix="for example '*soft*=soft steering'", where="--label")
        fitting = [number for number, run in enumerate(runs) if _fits(run, glob)]
        if len(fitting) != 1:
            which = "no run" if not fitting else f"{len(fitting)} runs"
            raise UserError(f"{glob!r} fits {which}", fix=f"it has to fit one; {_run_labels(runs)}", where="--label")
        runs[fitting[0]] = replace(runs[fitting[0]], label=name.strip())
    repeated = {run.label for run in runs if sum(peer.label == run.label for peer in runs) > 1}
    if repeated:
        raise UserError(
            f"the label {min(repeated)!r} is given to several runs",
            fix="give every run a name of its own",
            where="--label",
        )
    return runs


def _pick(runs: list[LabelledRun], globs: Sequence[str]) -> list[LabelledRun]:
    for glob in globs:
        if not any(_fits(run, glob) for run in runs):
            raise UserError(f"{glob!r} matches no run", fix=_run_labels(runs), where="--runs")
    return [run for run in runs if not globs or any(_fits(run, glob) for glob in globs)]
