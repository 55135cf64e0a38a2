"""What a run's results say of its gain over randomly chosen experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lm_eval_moe.results import Benchmark, Run
from lm_eval_moe.results.gains import reported_gain
from lm_eval_moe.results.routing import Control
from lm_eval_moe.statistics import ControlGain, mean_gain

__all__ = ["ControlGains", "control_gains"]


@dataclass(frozen=True)
class ControlGains:
    """The gains of a run.

    Attributes:
        seeds: How many random draws there were.
        average: Over the run's languages; None where one of them was not compared with controls.
        by_language: One a language.
        clustered: Whether the intervals of the average count an item's translations as one; otherwise the items of the
            languages are taken to be as alike as can be.
    """

    seeds: int
    average: ControlGain | None
    by_language: Mapping[str, ControlGain]
    clustered: bool


def control_gains(run: Run, benchmark: Benchmark) -> ControlGains | None:
    """Return a run's gains in a benchmark, None if it was not compared with random controls."""
    control = run.routing.control
    if control is None:
        return None
    cells = next(
        (cells for candidate, cells in zip(benchmark.runs, benchmark.cells, strict=True) if candidate is run), {}
    )
    key, higher = benchmark.metric.key, benchmark.higher_is_better
    by_language = {
        lang: gain
        for lang, cell in cells.items()
        if (gain := reported_gain((control.tasks.get(cell.task) or {}).get(key) or {}, higher_is_better=higher))
    }
    if not by_language:
        return None
    seeds = len(control.seeds)
    if len(by_language) < len(cells) or len({len(gain.per_control) for gain in by_language.values()}) > 1:
        return ControlGains(seeds, None, by_language, False)
    group = _group_of(run, {cell.task for cell in cells.values()}, control, key, higher)
    if group is None and len(by_language) > 1:
        return ControlGains(seeds, mean_gain([*by_language.values()], higher_is_better=higher), by_language, False)
    return ControlGains(seeds, group or next(iter(by_language.values())), by_language, True)


def _group_of(run: Run, tasks: set[str], control: Control, key: str, higher: bool) -> ControlGain | None:
    """Return the gain of the group that has exactly these tasks."""
    for group, metrics in control.groups.items():
        gain = reported_gain((metrics or {}).get(key) or {}, higher_is_better=higher)
        if gain is not None and set(run.leaves(group)) == tasks:
            return gain
    return None
