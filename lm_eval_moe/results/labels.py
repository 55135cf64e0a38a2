"""What runs are called: by what tells them apart. What they all share is said once, beside their names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from lm_eval_moe.results.facts import RunFacts
from lm_eval_moe.results.values import LabelledRun

__all__ = ["shared_sentence", "unique_labels", "unsaid"]

_SETTINGS = ("model_dtype", "limit", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
_LONGEST = 40  # characters of a setting's value


def unique_labels(runs: Sequence[LabelledRun]) -> list[LabelledRun]:
    """Give every run without a label one of its own; a label that is given stays, unless it is given twice.

    A run is named after its model and its steering, without the one that all runs share; where two would be called the
    same, by the settings in which they differ, then by the steering's hash, then by their type, folder and date.
    """
    facts = [RunFacts(run) for run in runs]
    by_model = len(facts) == 1 or len({run.model for run in facts}) > 1
    by_steering = len(facts) == 1 or len({_steering(run) for run in facts}) > 1
    labels = [run.label or _name(run, by_model, by_steering) for run in facts]
    for distinction in (_settings, _hash, _type, _folder, _stem, _date):
        for numbers in _repeated(labels).values():
            texts = distinction([facts[number] for number in numbers])
            if len(set(texts)) > 1:
                for number, text in zip(numbers, texts, strict=True):
                    labels[number] = _joined(labels[number], text)
    for label, numbers in _repeated(labels).items():
        for count, number in enumerate(numbers, start=1):
            labels[number] = f"{label} ({count})" if label else f"run {count}"
    names = [label or _steering(run) or "unsteered" for label, run in zip(labels, facts, strict=True)]
    return [replace(run, label=name) for run, name in zip(runs, names, strict=True)]


def shared_sentence(runs: Sequence[RunFacts]) -> str:
    """Say what all runs share and their labels leave out: ``All runs: org/model.``; empty where there is nothing."""
    models, steerings = {run.model for run in runs}, {_steering(run) for run in runs}
    if len(models) != 1 or all(run.label.startswith(run.model) for run in runs):
        return ""
    (model,) = models
    steering = next(iter(steerings)) if len(steerings) == 1 else None
    text = model if steering is None else f"{model} + {steering}" if steering else f"{model}, unsteered"
    return f"{'All runs' if len(runs) > 1 else 'The run'}: {text}."


def unsaid(run: RunFacts, runs: Sequence[RunFacts]) -> str:
    """Return what neither a run's label nor the sentence on all runs says of its model and steering."""
    parts = [
        run.model if len({other_run.model for other_run in runs}) > 1 else "",
        _steering(run) if len({_steering(other_run) for other_run in runs}) > 1 else "",
    ]
    return " + ".join(part for part in parts if part and part not in run.label)


def _repeated(labels: Sequence[str]) -> dict[str, list[int]]:
    homes: dict[str, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        homes[label].append(number)
    return {label: numbers for label, numbers in homes.items() if len(numbers) > 1}


def _name(run: RunFacts, by_model: bool, by_steering: bool) -> str:
    steering = _steering(run)
    if not by_model:
        return (steering or "unsteered") if by_steering else ""
    return f"{run.model} + {steering}" if by_steering and steering else run.model


def _steering(run: RunFacts) -> str:
    return (run.steering.name or "steering") if run.steering else ""


def _joined(label: str, text: str) -> str:
    if not label or not text:
        return label or text
    return f"{label} {text}" if text.startswith("#") else f"{label} ({text})"


def _settings(runs: Sequence[RunFacts]) -> list[str]:
    """Return the settings in which runs differ, seed of the steering and arguments of the model first."""
    by_run = [
        dict(_setting_texts(run)) for run in runs
    ]  # the data type that a model has comes after the one that was asked for
    names = dict.fromkeys(name for settings in by_run for name in settings)
    differing = [name for name in names if len({settings.get(name) for settings in by_run}) > 1]
    return [", ".join(f"{name}={settings[name]}" for name in differing if name in settings) for settings in by_run]


def _setting_texts(run: RunFacts) -> Iterator[tuple[str, str]]:
    config = run.raw.get("config") or {}
    settings = [
        ("seed", run.steering.spec.get("seed") if run.steering else None),
        *((name, value) for name, value in run.shown_arguments.items() if name != "steering"),
        *((name.removeprefix("model_"), config.get(name)) for name in _SETTINGS),
    ]
    for name, value in settings:
        if value is not None:
            text = str(value).removeprefix("torch.")
            yield name, text if len(text) <= _LONGEST else f"\N{HORIZONTAL ELLIPSIS}{text[1 - _LONGEST :]}"


def _hash(runs: Sequence[RunFacts]) -> list[str]:
    return [f"#{digest[:8]}" if (digest := run.steering_hash) else "" for run in runs]


def _type(runs: Sequence[RunFacts]) -> list[str]:
    return [str(run.raw.get("model_source") or (run.raw.get("config") or {}).get("model") or "") for run in runs]


def _folder(runs: Sequence[RunFacts]) -> list[str]:
    """Return the part of each folder's path in which it differs from the others'."""
    paths = [run.source.parent.parts if run.source else () for run in runs]
    start = 0
    while all(len(path) > start and path[start] == paths[0][start] for path in paths):
        start += 1
    end = 0
    shortest = min(len(path) for path in paths) - start
    while end < shortest and all(path[-1 - end] == paths[0][-1 - end] for path in paths):
        end += 1
    return [str(PurePosixPath(*middle)) if (middle := path[start : len(path) - end]) else "" for path in paths]


def _stem(runs: Sequence[RunFacts]) -> list[str]:
    return [run.stem.removeprefix("results").strip("_") for run in runs]


def _date(runs: Sequence[RunFacts]) -> list[str]:
    return [run.date for run in runs]
