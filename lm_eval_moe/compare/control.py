"""What a run's results say of its gain over randomly chosen experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval_moe.results import Benchmark, Run
from lm_eval_moe.results.routing import Control
from lm_eval_moe.results.values import is_number
from lm_eval_moe.statistics import Difference, Estimate, independent_mean, judge_unpaired

__all__ = ["ControlGains", "Gain", "control_gains"]


@dataclass(frozen=True)
class Gain:
    """A gain over random controls with its 95 % interval: None where that is not known, or no item differs."""

    value: float
    low: float | None
    high: float | None
    identical: bool = False

    @property
    def beyond(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class ControlGains:
    """The gains of a run.

    Attributes:
        seeds: How many random draws there were.
        average: Over the run's languages; None where one of them was not compared with controls.
        by_language: One a language.
        clustered: Whether the interval of the average counts an item's translations as one; otherwise the languages
            are taken as independent.
    """

    seeds: int
    average: Gain | None
    by_language: Mapping[str, Gain]
    clustered: bool


def control_gains(run: Run, benchmark: Benchmark) -> ControlGains | None:
    """Return a run's gains in a benchmark, None if it was not compared with random controls."""
    control = run.routing.control
    if control is None:
        return None
    cells = next((cells for each, cells in zip(benchmark.runs, benchmark.cells, strict=True) if each is run), {})
    key = benchmark.metric.key
    found = {
        lang: entry
        for lang, cell in cells.items()
        if (entry := (control.tasks.get(cell.task) or {}).get(key)) and is_number(entry.get("gain"))
    }
    if not found:
        return None
    seeds = len(control.seeds)
    by_language = {lang: _gain(entry) for lang, entry in found.items()}
    if len(found) < len(cells):
        return ControlGains(seeds, None, by_language, False)
    group = _group_of(run, {cell.task for cell in cells.values()}, control, key)
    if group is not None:
        return ControlGains(seeds, _gain(group), by_language, True)
    errors = [entry.get("stderr") for entry in found.values()]
    mean = independent_mean(
        [
            Estimate(gain.value, float(error) if is_number(error) else None)
            for gain, error in zip(by_language.values(), errors, strict=True)
        ]
    )
    if all(gain.identical for gain in by_language.values()):
        return ControlGains(seeds, Gain(mean.value, None, None, identical=True), by_language, False)
    interval = judge_unpaired(Difference(mean.value, mean.stderr, "unpaired")).interval
    return ControlGains(seeds, Gain(mean.value, *(interval or (None, None))), by_language, False)


def _group_of(run: Run, tasks: set[str], control: Control, key: str) -> Mapping[str, Any] | None:
    """Return the gain of the group that has exactly these tasks."""
    for group, metrics in control.groups.items():
        if set(run.leaves(group)) == tasks and is_number(((metrics or {}).get(key) or {}).get("gain")):
            return metrics[key]
    return None


def _gain(entry: Mapping[str, Any]) -> Gain:
    low, high = entry.get("low"), entry.get("high")
    known = is_number(low) and is_number(high)
    if not known:
        return Gain(float(entry["gain"]), None, None, identical=entry.get("stderr") == 0)
    return Gain(float(entry["gain"]), float(low), float(high))  # type: ignore[arg-type]
