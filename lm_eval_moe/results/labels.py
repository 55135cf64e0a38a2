"""What runs are called: model and steering, and as much of folder and date as tells them apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from lm_eval_moe.results.run import LabelledRun, Run

__all__ = ["unique_labels"]


def unique_labels(runs: Sequence[LabelledRun]) -> list[LabelledRun]:
    """Give every run without a label one of its own; a label that is given stays, unless it is given twice."""
    labels = [run.label or _plain(Run(run)) for run in runs]
    for distinction in (_type, _folder, _stem, lambda run, _: run.date):
        shared = _shared(labels)
        for numbers in shared.values():
            further = [distinction(runs[number], [runs[other] for other in numbers]) for number in numbers]
            if len(set(further)) > 1:
                for number, text in zip(numbers, further, strict=True):
                    labels[number] = f"{labels[number]} ({text})" if text else labels[number]
    for label, numbers in _shared(labels).items():
        for count, number in enumerate(numbers, start=1):
            labels[number] = f"{label} ({count})"
    return [replace(run, label=label) for run, label in zip(runs, labels, strict=True)]


def _shared(labels: Sequence[str]) -> dict[str, list[int]]:
    homes: dict[str, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        homes[label].append(number)
    return {label: numbers for label, numbers in homes.items() if len(numbers) > 1}


def _plain(run: Run) -> str:
    return f"{run.model} + {run.steering_title}" if run.steering else run.model


def _type(run: LabelledRun, _: Sequence[LabelledRun]) -> str:
    source = run.results.get("model_source") or (run.results.get("config") or {}).get("model")
    return str(source or "")


def _folder(run: LabelledRun, others: Sequence[LabelledRun]) -> str:
    """Return the part of the folder's path in which it differs from the others'."""
    paths = [each.source.parent.parts if each.source else () for each in others]
    own = run.source.parent.parts if run.source else ()
    start = 0
    while all(len(path) > start and path[start] == paths[0][start] for path in paths):
        start += 1
    end = 0
    shortest = min(len(path) for path in paths) - start
    while end < shortest and all(path[-1 - end] == paths[0][-1 - end] for path in paths):
        end += 1
    return str(PurePosixPath(*own[start : len(own) - end])) if own[start : len(own) - end] else ""


def _stem(run: LabelledRun, _: Sequence[LabelledRun]) -> str:
    return run.stem.removeprefix("results").strip("_")
