"""What a sweep's folder says: its cells beside their random controls, and how they were run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lm_eval_moe.drawing.cells_by_languages import Gains
from lm_eval_moe.errors import UserError
from lm_eval_moe.number_text import Scale, minus
from lm_eval_moe.results.reading import load_json
from lm_eval_moe.results.values import Metric, is_number

__all__ = [
    *("MEAN", "SweepBenchmark", "SweepCell", "SweepEffect", "SweepReport"),
    *("gains_to_draw", "is_sweep", "plain", "read_sweep", "short_names", "sweep_benchmark"),
]

MEAN = "mean"
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SweepEffect:
    """What a cell does to a language, or to the mean of several, as shares; None where it is not known.

    Attributes:
        baseline: The unsteered score.
        gain: The steered score less the baseline's.
        control: The mean of the controls' scores less the baseline's.
        over: The steered score less the controls'.
        low: Lower end of its 95 % interval.
        high: Upper end.
        draws: How many controls there are.
    """

    baseline: float
    gain: float
    control: float | None
    over: float | None
    low: float | None
    high: float | None
    draws: int


@dataclass(frozen=True)
class SweepCell:
    """One steering of the grid: the fields that vary, numbers or a few characters, and its effects by language."""

    settings: Mapping[str, str | int | float]
    experts: int
    hash: str
    effects: Mapping[str, SweepEffect]

    @property
    def title(self) -> str:
        """The values of the fields."""
        return ", ".join(self.texts)

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as they are shown."""
        return tuple(each if isinstance(each, str) else minus(f"{each:g}") for each in self.settings.values())


@dataclass(frozen=True)
class SweepBenchmark:
    """One benchmark of a sweep."""

    name: str
    metric: Metric
    higher_is_better: bool
    languages: tuple[str, ...]
    cells: tuple[SweepCell, ...]
    waiting: int


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
        benchmarks = tuple(sweep_benchmark(each) for each in table["benchmarks"])
        return SweepReport(str(table["name"]), folder, benchmarks, settings)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"is damaged ({type(error).__name__}: {error})",
            fix="run `lm-eval-moe sweep` again with the same folder: it keeps the runs and writes the table anew",
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
    kinds = {"steered": [[effect and effect.gain for effect in row] for row in effects]}
    controls = [[effect and effect.control for effect in row] for row in effects]
    if any(value is not None for row in controls for value in row):
        kinds["random controls"] = controls
    grids = {kind: scale.factor * np.array(values, dtype=np.float64) for kind, values in kinds.items()}
    return Gains([cell.title for cell in benchmark.cells], columns, several, grids, scale.axis, 1 if scale.unit else 2)


def _json(path: Path) -> dict[str, Any]:
    content = load_json(path, "run `lm-eval-moe sweep` again with the same folder")
    if not isinstance(content, dict):
        raise UserError("holds no JSON object", fix="give the folder of a sweep", where=str(path))
    return content


def sweep_benchmark(given: Mapping[str, Any]) -> SweepBenchmark:
    """Read a benchmark as the table holds it; errors are those of Python."""
    name, _, filtered = str(given["metric"]).partition(",")
    return SweepBenchmark(
        str(given["benchmark"]),
        Metric(name, filtered or "none"),
        bool(given["higher_is_better"]),
        tuple(map(str, given["languages"])),
        tuple(_cell(each) for each in given["cells"]),
        int(given["waiting"]),
    )


def _cell(given: Mapping[str, Any]) -> SweepCell:
    effects = {str(name): _effect(each) for name, each in given["effects"].items()}
    names = short_names(given["settings"])
    settings = {names[key]: value if is_number(value) else plain(value) for key, value in given["settings"].items()}
    return SweepCell(settings, int(given["experts"]), str(given["hash"]), effects)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return what tables call dotted paths: their last part that is no index, or the paths where two are the same."""
    names = {key: next((part for part in reversed(key.split(".")) if not part.isdecimal()), key) for key in keys}
    return names if len(set(names.values())) == len(names) else {key: key for key in names}


def _effect(given: Mapping[str, Any]) -> SweepEffect:
    over = given.get("over_control") or {}
    baseline, gain = _number(given["baseline"]), _number(given["gain"]["value"])
    if baseline is None or gain is None:
        raise ValueError("a score is missing")
    return SweepEffect(
        baseline,
        gain,
        _number(given.get("control")),
        over=_number(over.get("gain")),
        low=_number(over.get("low")),
        high=_number(over.get("high")),
        draws=len(over.get("per_control") or ()),
    )


def _number(value: object) -> float | None:
    if value is None:
        return None
    if not is_number(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)
