"""What a sweep's folder says: its cells beside their random controls, and how they were run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.drawing.cells_by_languages import Gains
from lm_eval_moe.errors import UserError
from lm_eval_moe.number_text import Scale, minus
from lm_eval_moe.results.gains import reported_gain
from lm_eval_moe.results.reading import load_json
from lm_eval_moe.results.values import Metric, is_number
from lm_eval_moe.statistics import ALPHA, ControlGain, Difference, half_width, holm, is_beyond_chance, judge_unpaired

__all__ = [
    *("MEAN", "OTHERS", "EmptyCell", "GridCell", "SweepBenchmark", "SweepCell", "SweepEffect", "SweepReport"),
    *("gains_to_draw", "heat_map_caption", "is_sweep", "plain", "read_sweep", "short_names"),
]

MEAN, OTHERS = "mean", "mean without the reference"
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SweepEffect:
    """What a cell does to one language, or to the mean of several.

    Attributes:
        baseline: The unsteered score.
        gain: The steered score less the baseline's, paired by item where that is possible.
        exact_p: Two-sided p of the gain where the items' exact test takes no long time; else None.
        control: The mean of the controls' scores less the baseline's; None without controls.
        over_control: The steered score less the controls'; None without controls.
        corrected_p: Two-sided p of the difference from the mean of the controls, corrected for all cells and languages
            of the benchmark; None without controls, and where the items are not known.
    """

    baseline: float
    gain: Difference
    exact_p: float | None
    control: float | None
    over_control: ControlGain | None
    corrected_p: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything; JSON-ready."""
        values = asdict(self)
        return values | {"gain": values["gain"] | {"exact_p": values.pop("exact_p")}}


@dataclass(frozen=True)
class GridCell:
    """One combination of the grid's values, by dotted path."""

    settings: Mapping[str, Any]

    @property
    def texts(self) -> tuple[str, ...]:
        """The values in a few characters."""
        return tuple(map(plain, self.settings.values()))


@dataclass(frozen=True)
class SweepCell(GridCell):
    """One steering of the grid.

    Attributes:
        hash: Of what it does.
        experts: How many (layer, expert) pairs are targeted.
        control_hashes: Of its random controls.
        effects: By language; `MEAN` is that of all, `OTHERS` without the reference.
    """

    hash: str
    experts: int
    control_hashes: tuple[str, ...]
    effects: Mapping[str, SweepEffect]

    @property
    def fields(self) -> dict[str, str | int | float]:
        """The values, numbers or a few characters, by what tables call them."""
        names = short_names(self.settings)
        return {names[key]: value if is_number(value) else plain(value) for key, value in self.settings.items()}

    @property
    def printed(self) -> tuple[str, ...]:
        """The values as the report shows them, with true minus signs."""
        return tuple(value if isinstance(value, str) else minus(f"{value:g}") for value in self.fields.values())

    @property
    def title(self) -> str:
        """The values of the fields."""
        return ", ".join(self.printed)

    def to_dict(self) -> dict[str, Any]:
        """Return everything; JSON-ready."""
        effects = {name: effect.to_dict() for name, effect in self.effects.items()}
        return {**vars(self), "control_hashes": list(self.control_hashes), "effects": effects}


@dataclass(frozen=True)
class EmptyCell(GridCell):
    """A combination of values that selects no expert, and why."""

    reason: str


@dataclass(frozen=True)
class SweepBenchmark:
    """One benchmark of a sweep.

    Attributes:
        benchmark: Its name.
        metric: Its main metric.
        higher_is_better: Its direction.
        reference: The reference language.
        languages: The reference first, then from the baseline's best score to its worst.
        cells: Those that have been run so far, in the grid's order.
        waiting: How many cells have not been run yet.
        empty: Cells without experts.
    """

    benchmark: str
    metric: Metric
    higher_is_better: bool
    reference: str | None
    languages: tuple[str, ...]
    cells: tuple[SweepCell, ...]
    waiting: int
    empty: tuple[EmptyCell, ...] = ()

    @property
    def whole(self) -> str:
        """The name of the effect on all languages."""
        return MEAN if len(self.languages) > 1 else self.languages[0]

    def to_dict(self) -> dict[str, Any]:
        """Return everything; JSON-ready."""
        return {
            **vars(self),
            "metric": self.metric.key,
            "languages": list(self.languages),
            "cells": [cell.to_dict() for cell in self.cells],
            "empty": [{"settings": dict(cell.settings), "reason": cell.reason} for cell in self.empty],
        }


@dataclass(frozen=True)
class SweepReport:
    """A sweep.

    Attributes:
        name: What its file calls it.
        folder: Where it lies.
        benchmarks: Those that it ran.
        settings: Model, tasks, evaluation and versions.
    """

    name: str
    folder: Path
    benchmarks: tuple[SweepBenchmark, ...]
    settings: Mapping[str, Any]


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep with at least one finished run."""
    return (folder / "table.json").is_file() and (folder / "settings.json").is_file() and (folder / "runs").is_dir()


def read_sweep(folder: Path) -> SweepReport:
    """Read a sweep's table.

    Raises:
        UserError: It cannot be read, is damaged or of another version.
    """
    table, settings = _json(folder / "table.json"), _json(folder / "settings.json")
    version = table.get("schema_version")
    if version != _SCHEMA_VERSION:
        raise UserError(
            f"is of schema version {version!r}",
            fix=f"this release reads version {_SCHEMA_VERSION}; run `lm-eval-moe sweep` again, which keeps the runs",
            where=str(folder / "table.json"),
        )
    try:
        benchmarks = tuple(_benchmark(entry) for entry in table["benchmarks"])
        return SweepReport(str(table["name"]), folder, benchmarks, settings)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"is damaged ({type(error).__name__}: {error})",
            fix="run `lm-eval-moe sweep` again with the same folder: it keeps the runs and rewrites the table",
            where=str(folder / "table.json"),
        ) from error


def plain(value: Any) -> str:
    """Write a grid value in a few characters: ``0.5``, ``8-35``, ``soft 0.5``."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def gains_to_draw(benchmark: SweepBenchmark) -> Gains:
    """Return what the heat map of a sweep shows; of shares, percentage points."""
    several = len(benchmark.languages) > 1
    columns = [*benchmark.languages, *([MEAN] if several else [])]
    scale = Scale(benchmark.metric)
    effects = [[cell.effects.get(name) for name in columns] for cell in benchmark.cells]
    kinds = {"steered": [[effect and effect.gain.value for effect in row] for row in effects]}
    controls = [[effect and effect.control for effect in row] for row in effects]
    if any(value is not None for row in controls for value in row):
        kinds["random controls"] = controls
    grids = {kind: scale.factor * np.array(values, dtype=np.float64) for kind, values in kinds.items()}
    errors = [effect.gain.stderr for row in effects for effect in row if effect and effect.gain.stderr is not None]
    return Gains(
        [cell.title for cell in benchmark.cells],
        columns,
        several,
        grids,
        scale.axis,
        1 if scale.unit else 2,
        noise=scale.factor * half_width(ALPHA / 2, float(np.median(errors))) if errors else 0.0,
        beyond=_beyond(effects),
    )


def _beyond(effects: Sequence[Sequence[SweepEffect | None]]) -> NDArray[np.bool_]:
    """Return which gains over the baseline are beyond noise, by Holm's correction over all of them."""
    tests = [
        (row, column, effect.exact_p if effect.exact_p is not None else judge_unpaired(effect.gain).p)
        for row, of_cell in enumerate(effects)
        for column, effect in enumerate(of_cell)
        if effect is not None
    ]
    p_values = [(row, column, p) for row, column, p in tests if p is not None]
    beyond = np.zeros((len(effects), len(effects[0]) if effects else 0), dtype=bool)
    for (row, column, _), p in zip(p_values, holm([p for _, _, p in p_values]), strict=True):
        beyond[row, column] = is_beyond_chance(p, ALPHA)
    return beyond


def heat_map_caption(benchmark: SweepBenchmark) -> str:
    """Say how to read the heat map of a sweep."""
    metric, names = benchmark.metric.title, ", ".join(benchmark.cells[0].fields)
    controls = any(effect.control is not None for cell in benchmark.cells for effect in cell.effects.values())
    sentences = [
        f"{metric[:1].upper()}{metric[1:]} minus that of the unsteered model, by cell of the grid ({names}) and "
        "language"
    ]
    if controls:
        sentences[0] += (
            "; below it the mean of the cell's random controls: the same number of experts per layer, drawn at random "
            "and steered the same way"
        )
    sentences.append(
        "Framed: beyond noise against the baseline (Holm's correction over all cells and languages at 5 %)"
    )
    sentences.append("Crossed out: no value")
    sentences.append("The colour of a gain as large as chance makes it is at most half of the full one")
    return ". ".join(sentences) + "."


def _json(path: Path) -> dict[str, Any]:
    content = load_json(path, "run `lm-eval-moe sweep` again with the same folder")
    if not isinstance(content, dict):
        raise UserError("does not hold a JSON object", fix="give the folder of a sweep", where=str(path))
    return content


def _benchmark(entry: Mapping[str, Any]) -> SweepBenchmark:
    """Read a benchmark as the table holds it; errors are those of Python."""
    name, _, filtered = str(entry["metric"]).partition(",")
    higher = bool(entry["higher_is_better"])
    return SweepBenchmark(
        str(entry["benchmark"]),
        Metric(name, filtered or "none"),
        higher,
        entry.get("reference"),
        tuple(map(str, entry["languages"])),
        tuple(_cell(cell, higher) for cell in entry["cells"]),
        int(entry["waiting"]),
    )


def _cell(entry: Mapping[str, Any], higher: bool) -> SweepCell:
    effects = {str(name): _effect(effect, higher) for name, effect in entry["effects"].items()}
    hashes = tuple(entry.get("control_hashes") or ())
    return SweepCell(dict(entry["settings"]), str(entry["hash"]), int(entry["experts"]), hashes, effects)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return what tables call dotted paths: their last part that is not an index, or the paths if two are the same."""
    names = {key: next((part for part in reversed(key.split(".")) if not part.isdecimal()), key) for key in keys}
    return names if len(set(names.values())) == len(names) else {key: key for key in names}


def _effect(entry: Mapping[str, Any], higher: bool) -> SweepEffect:
    gain, over = entry["gain"], entry.get("over_control")
    return SweepEffect(
        _score(entry["baseline"]),
        Difference(_score(gain["value"]), _number(gain.get("stderr")), gain.get("how") or "unpaired"),
        _number(gain.get("exact_p")),
        _number(entry.get("control")),
        reported_gain(over, higher_is_better=higher) if over else None,
        _number(entry.get("corrected_p")),
    )


def _score(value: object) -> float:
    number = _number(value)
    if number is None:
        raise ValueError("a score is missing")
    return number


def _number(value: object) -> float | None:
    if value is None:
        return None
    if not is_number(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)
