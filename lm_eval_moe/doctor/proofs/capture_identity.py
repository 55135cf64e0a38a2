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
    unit = "logits" if runs.has_modules else "scores"
    comparison = compare_logits(runs.plain, runs.captured)
    if not comparison.identical:
        return ProofOutcome(
            "fail",
            f"{comparison.different} of {comparison.logits} {unit} differ from the plain model's, by up to "
            f"{comparison.largest:.3g}",
            "do not compare captured results with those of the plain model, and please report it",
            details=asdict(comparison),
        )
    return ProofOutcome(
        "pass", f"{comparison.logits:,} {unit} are identical to the plain model's", details=asdict(comparison)
    )
