"""A request's record is its own: it hangs neither on what shares its batch nor on the order of the requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.doctor.finding import ProofOutcome, proof

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs

__all__ = ["examine"]

_ROUNDING = 0.05
"""The share of a sentence's selections that other sums of the same batch may change, in half precision."""


@proof(
    "batching",
    "the batch changes no record",
    observes="the records of the same sentences together, and each alone in reverse order",
    order=45,
    runs=1,
)
def examine(runs: Runs) -> ProofOutcome:
    """Score the sentences once more, one at a time and the last first, and compare their records."""
    alone = runs.score("one at a time", capture="all", sentences=runs.sentences[::-1], alone=True)
    off = total = 0
    wrong = []
    for sentence in runs.sentences:
        one, separate = runs.captured.records.get(sentence.number), alone.records.get(sentence.number)
        if one is None or separate is None or one.counts is None or separate.counts is None:
            wrong.append(f"{sentence.language}: nothing was recorded")
            continue
        selections = int(one.counts.sum())
        differing = int(np.abs(one.counts - separate.counts).sum()) // 2
        off, total = off + differing, total + selections
        if one.tokens != separate.tokens:
            wrong.append(f"{sentence.language}: {one.tokens} tokens in a batch, {separate.tokens} alone")
        elif differing > _ROUNDING * selections:
            wrong.append(f"{sentence.language}: {differing} of {selections} selections differ")
    details: dict[str, Any] = {"selections": total, "differing": off, "wrong": wrong}
    if wrong:
        return ProofOutcome(
            "fail",
            f"{len(wrong)} of {len(runs.sentences)} sentences have a different record alone than in a batch "
            f"({wrong[0]})",
            "the routing fields of this model's results cannot be trusted; please report it",
            details=details,
        )
    summary = "all equal" if not off else f"{off} differ through rounding in batches of another size"
    return ProofOutcome("pass", f"{total:,} selections, in batches and one at a time: {summary}", details=details)
