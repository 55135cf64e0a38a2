"""``task_overlap``: whether the experts of a task are those of other languages, by threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.analysis._base import Analysis, jsonable
from lm_eval_moe.analysis._inputs import AnalysisInputs, NotPossible
from lm_eval_moe.shape import BANDS
from lm_eval_moe.steering.selectors import Scope
from lm_eval_moe.steering.selectors.multilingual import MultilingualExperts
from lm_eval_moe.steering.selectors.task import TaskExperts
from lm_eval_moe.tables import TableValue, aligned
from lm_eval_moe.yaml_values import YamlPlace

if TYPE_CHECKING:
    from typing import Self

__all__ = ["SetOverlap", "TaskOverlap", "overlap_of_sets"]


@dataclass(frozen=True)
class SetOverlap:
    """Two sets of experts of some layers.

    Attributes:
        first: Experts of the first.
        second: Experts of the second.
        both: Experts of both.
        jaccard: Their share of those of either; NaN where there are none.
        by_chance: How many would be in both if each layer's sets were drawn evenly from its experts.
        p_fewer: How likely at most ``both`` are then.
        p_more: How likely at least ``both`` are then.
    """

    first: int
    second: int
    both: int
    jaccard: float
    by_chance: float
    p_fewer: float
    p_more: float


@dataclass(frozen=True)
class TaskOverlap(Analysis):
    """The sets of the rules ``task`` and ``multilingual`` at the same threshold τ (arXiv 2510.04694).

    There they are found to be disjoint from τ = 0.3 on. Small sets are disjoint by chance alone: the expected overlap
    stands beside the one that was found.

    Attributes:
        overlaps: By threshold and band, ``all`` included; a band without layers is not there.
        largest_task: The largest difference of a task expert's frequency: no threshold above it selects any.
        largest_multilingual: The same of the multilingual experts.
    """

    name = "task_overlap"
    rank = 60
    columns = ("threshold", "band", "task", "multilingual", "both", "jaccard", "by_chance", "p_fewer", "p_more")
    overlaps: dict[float, dict[str, SetOverlap]]
    largest_task: float
    largest_multilingual: float

    @classmethod
    def of(cls, inputs: AnalysisInputs) -> Self:
        """Sweep the threshold."""
        if inputs.task is None:
            raise NotPossible(
                "there is no profile of a task, and of general text to compare it with",
                "give both with --task_profile and --baseline_profile",
            )
        inputs.require_languages(2)
        shape = inputs.shape
        profile, baseline, language = inputs.task
        place = YamlPlace("the overlap of task and multilingual experts", profile.path.parent)
        scope = Scope(shape.layers, shape, 0, place, inputs.store)
        profiles = {name: routing.given for name, routing in inputs.languages.items()}
        task = TaskExperts(profile, baseline, 0.0, language).compare(scope).values
        multilingual = MultilingualExperts(profiles, inputs.reference, 0.0).compare(scope).values
        bands = {band: shape.band(band) for band in (*BANDS, "all")}
        rows = {band: [shape.layers.index(layer) for layer in layers] for band, layers in bands.items() if layers}
        overlaps = {
            tau: {band: overlap_of_sets(task[at] > tau, multilingual[at] > tau) for band, at in rows.items()}
            for tau in inputs.settings.thresholds
        }
        return cls(overlaps, float(task.max()), float(multilingual.max()))

    def to_dict(self) -> dict[str, Any]:
        """Return the overlaps by threshold and band."""
        return jsonable(
            {
                "largest_difference": {"task": self.largest_task, "multilingual": self.largest_multilingual},
                "thresholds": [
                    {"threshold": threshold, **{band: dict(vars(overlap)) for band, overlap in bands.items()}}
                    for threshold, bands in self.overlaps.items()
                ],
            }
        )

    def rows(self) -> Iterator[Sequence[TableValue]]:
        """Yield a row a threshold and band."""
        for threshold, bands in self.overlaps.items():
            for band, overlap in bands.items():
                jaccard = None if np.isnan(overlap.jaccard) else overlap.jaccard
                counts = (overlap.first, overlap.second, overlap.both)
                yield (threshold, band, *counts, jaccard, overlap.by_chance, overlap.p_fewer, overlap.p_more)

    def lines(self) -> list[str]:
        """Return a line a threshold, over all layers and in the middle ones."""
        rows = [["threshold", "task", "multilingual", "both", "by chance", "jaccard", "both in the middle layers"]]
        for threshold, bands in self.overlaps.items():
            overall, middle = bands["all"], bands.get("middle")
            jaccard = "-" if np.isnan(overall.jaccard) else f"{overall.jaccard:.3f}"
            counts = [str(number) for number in (overall.first, overall.second, overall.both)]
            inside = f"{middle.both} of {middle.first} and {middle.second}" if middle else "-"
            rows.append([f"{threshold:g}", *counts, f"{overall.by_chance:.2f}", jaccard, inside])
        heading = "task experts that are multilingual experts, too"
        largest = f"largest difference: task {self.largest_task:.3f}, multilingual {self.largest_multilingual:.3f}"
        return [f"{heading} ({largest})", *aligned(rows)]


def overlap_of_sets(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> SetOverlap:
    """Compare two sets of experts, ``[layers, E]`` each.

    By chance the experts of both in a layer are hypergeometric; over layers their numbers add up.
    """
    from scipy.stats import hypergeom

    common, experts = int((first & second).sum()), first.shape[-1]
    either = int((first | second).sum())
    sizes = np.stack([first.sum(-1), second.sum(-1)], -1)
    likely = np.ones(1)
    for size, other_size in sizes.tolist():
        likely = np.convolve(likely, hypergeom.pmf(np.arange(min(size, other_size) + 1), experts, size, other_size))
    return SetOverlap(
        int(first.sum()),
        int(second.sum()),
        common,
        common / either if either else float("nan"),
        float(sizes.prod(-1).sum() / experts),
        min(float(likely[: common + 1].sum()), 1.0),
        min(float(likely[common:].sum()), 1.0),
    )
