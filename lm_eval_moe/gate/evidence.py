"""What the gate judges: two runs' scores of a task, and how far their routing of the same items lies apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from lm_eval_moe.statistics import Estimate

__all__ = ["DriftEvidence", "Evidence", "FlippedItem", "NamedSide"]


@dataclass(frozen=True)
class NamedSide:
    """The baseline or the candidate, as the verdict names it.

    Attributes:
        label: What it is called: the model, and the steering if there is one.
        steering: Name and hash of its steering; empty if unsteered, None where its results could not be read.
        files: Its results files.
    """

    label: str
    steering: str | None = None
    files: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Label, steering and files."""
        files = f" ({', '.join(self.files)})" if self.files else ""
        return f"{self.label}{', unsteered' if self.steering == '' else ''}{files}"


@dataclass(frozen=True)
class FlippedItem:
    """An item whose score changed.

    Attributes:
        doc_id: Its number in the task.
        name: Its name in all languages; None where that is not known.
        before: Its score in the baseline.
        after: In the candidate.
    """

    doc_id: int
    name: str | None
    before: float
    after: float


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
        key: The metric's key in the results.
        flipped: The items whose score changed, the largest changes first; empty where the items are not known.
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
    key: str = ""
    flipped: Sequence[FlippedItem] = ()
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
