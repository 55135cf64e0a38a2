"""The items whose score changed: which they are, and what was answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.gate.evidence import Evidence, FlippedItem
from lm_eval_moe.results.values import Metric

if TYPE_CHECKING:
    from lm_eval_moe.gate.collect import Side
    from lm_eval_moe.results.answers import Answer

__all__ = ["Flip", "Flips", "flips_of"]


@dataclass(frozen=True)
class Flip(FlippedItem):
    """One item.

    Attributes:
        target: What would have been right; None, as the next two, where the samples do not say.
        baseline: What the baseline answered.
        candidate: What the candidate answered.
    """

    target: str | None = None
    baseline: str | None = None
    candidate: str | None = None


@dataclass(frozen=True)
class Flips:
    """Those of one task.

    Attributes:
        benchmark: The benchmark.
        language: The language; None where it is not known.
        task: The task.
        metric: The metric that changed.
        is_share: Whether its items are right or wrong.
        lost: How many items scored worse.
        gained: How many scored better.
        shown: Of both, as many as were asked for: the lost ones first, the largest changes first.
        problem: Why the items are not known, and what would help; None if they are.
    """

    benchmark: str
    language: str | None
    task: str
    metric: str
    is_share: bool = True
    lost: int = 0
    gained: int = 0
    shown: Mapping[str, tuple[Flip, ...]] | None = None
    problem: str | None = None

    @property
    def title(self) -> str:
        """How many items there are, or why they are not known."""
        name = " ".join(filter(None, (self.benchmark, self.language)))
        return f"{name}: {self.problem}" if self.problem else f"{name}: {self.lost} lost, {self.gained} gained"

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        examples = {kind: [asdict(flip) for flip in flips] for kind, flips in (self.shown or {}).items()}
        return {**vars(self), "shown": examples}


def flips_of(evidence: Sequence[Evidence], baseline: Side, candidate: Side, most: int) -> list[Flips]:
    """Return the flipped items of every task whose scores are compared.

    Args:
        evidence: What is compared.
        baseline: Where its samples are.
        candidate: Where its samples are.
        most: So many of the lost and so many of the gained items are shown.

    Raises:
        UserError: A samples log cannot be read.
    """
    return [_of_task(entry, baseline, candidate, most) for entry in evidence if entry.problem is None]


def _of_task(evidence: Evidence, baseline: Side, candidate: Side, most: int) -> Flips:
    task = (evidence.benchmark, evidence.language, evidence.task, evidence.metric, evidence.is_share)
    if evidence.losses is None:
        return Flips(
            *task,
            problem="which items flipped is not known, since the items' scores were not logged: evaluate both sides "
            "with --log_samples (a metric that is not a mean over items has none)",
        )
    sign = 1 if evidence.higher_is_better else -1
    lost = [item for item in evidence.flipped if sign * (item.after - item.before) < 0]
    gained = [item for item in evidence.flipped if sign * (item.after - item.before) > 0]
    ids = {item.doc_id for item in (*lost[:most], *gained[:most])}
    before, after = (_answers(side, evidence, ids) for side in (baseline, candidate))
    examples = {
        kind: tuple(_flip(item, before, after) for item in items[:most])
        for kind, items in (("lost", lost), ("gained", gained))
    }
    return Flips(*task, len(lost), len(gained), examples)


def _answers(side: Side, evidence: Evidence, ids: set[int]) -> Mapping[int, Answer]:
    run = side.run_of(evidence.task)
    return run.answers(evidence.task, Metric(*evidence.key.split(",", 1)), ids) if run is not None and ids else {}


def _flip(item: FlippedItem, before: Mapping[int, Answer], after: Mapping[int, Answer]) -> Flip:
    first, second = before.get(item.doc_id), after.get(item.doc_id)
    return Flip(
        **vars(item),
        target=first.target if first else None,
        baseline=first.given if first else None,
        candidate=second.given if second else None,
    )
