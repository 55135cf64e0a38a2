"""What the gate judges: two runs' scores of a task, and how far their routing of the same items lies apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from lm_eval_moe.statistics import Estimate

__all__ = ["DriftEvidence", "Evidence"]


@dataclass(frozen=True)
class Evidence:
    """The baseline's and the candidate's scores of one task.

    Attributes:
        benchmark: The benchmark; for a task of no known language the task itself.
        language: Its language, None if that is not known: it then stands for itself, in no average.
        task: The task.
        before: The baseline's score; None where it cannot be judged.
        after: The candidate's score.
        items: How many items were scored.
        losses: Of each item its name and the baseline's score less the candidate's (the other way round if lower is
            better): positive where the candidate is worse. None if the items are not known.
        named: Whether the names of ``losses`` are those of the same items in all languages of the benchmark; otherwise
            no other language has them.
        higher_is_better: The metric's direction.
        is_share: Whether the score is a share of items, told in per cent.
        metric: What the score is called.
        problem: Why it cannot be judged, and what would help; None if it can.
    """

    benchmark: str
    language: str | None
    task: str
    before: Estimate | None = None
    after: Estimate | None = None
    items: int = 0
    losses: Sequence[tuple[Hashable, float]] | None = None
    named: bool = False
    higher_is_better: bool = True
    is_share: bool = True
    metric: str = "accuracy"
    problem: str | None = None


@dataclass(frozen=True)
class DriftEvidence:
    """How far apart the two runs route the same items of one language.

    Attributes:
        benchmark: The benchmark.
        language: The language, None where drift could not be looked at in any.
        task: The task.
        items: How many items were compared.
        means: Mean divergence over items and layers, by band.
        problem: Why it cannot be judged, and what would help; None if it can.
    """

    benchmark: str
    language: str | None
    task: str | None = None
    items: int = 0
    means: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None
