"""With capture on, the logits are bit-identical to the plain model's."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from lm_eval_moe.doctor.compare import compare_logits
from lm_eval_moe.doctor.finding import ProofOutcome, proof

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs

__all__ = ["examine"]


@proof(
    "capture_identity",
    "capture changes no bit",
    observes="the logits of runs with and without capture",
    order=20,
    runs=1,
)
def examine(runs: Runs) -> ProofOutcome:
    """Compare all logits of the same batches."""
    itself = compare_logits(runs.plain, runs.score("plain run, again"))
    if not itself.identical:
        return ProofOutcome(
            "fail",
            "cannot be shown: two runs of the plain model differ from each other "
            f"(by up to {itself.largest:.3g} in a logit)",
            "make the model deterministic (deterministic kernels, no dropout), then run doctor again",
            details=asdict(itself),
        )
    seen = "logits" if runs.has_modules else "scores"
    found = compare_logits(runs.plain, runs.captured)
    if not found.identical:
        return ProofOutcome(
            "fail",
            f"{found.different} of {found.logits} {seen} differ from the plain model's, by up to {found.largest:.3g}",
            "do not compare captured results with those of the plain model, and please report it",
            details=asdict(found),
        )
    return ProofOutcome("pass", f"{found.logits:,} {seen} are those of the plain model", details=asdict(found))
