"""Steering with zero strength is bit-identical to no steering."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lm_eval_moe.doctor.compare import compare_logits
from lm_eval_moe.doctor.finding import ProofOutcome, proof
from lm_eval_moe.doctor.runs import steering_of

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs

__all__ = ["examine"]

_ACTIONS = ("soft", "bias", "proportional")


@proof(
    "zero_strength",
    "zero strength changes no bit",
    observes="the logits of runs with strength 0 and without steering",
    order=50,
    runs=1,
)
def examine(runs: Runs) -> ProofOutcome:
    """Steer every expert of every layer with strength 0, with all actions at once, and singly if that differs."""
    names = ", ".join(f"{name} 0" for name in _ACTIONS)
    together = runs.score("zero strength", steering=steering_of(*(_nothing(runs, name) for name in _ACTIONS)))
    comparison = compare_logits(runs.plain, together)
    if comparison.identical:
        return ProofOutcome("pass", f"{names} on all experts", details=asdict(comparison))
    guilty = []
    for name in _ACTIONS:
        alone = runs.score(f"{name} 0", steering=steering_of(_nothing(runs, name)))
        if not compare_logits(runs.plain, alone).identical:
            guilty.append(f"{name} 0")
    return ProofOutcome(
        "fail",
        f"{comparison.different} of {comparison.logits} logits differ from the plain model's, by up to "
        f"{comparison.largest:.3g} ({', '.join(guilty) or names})",
        "do not compare steered with unsteered results of this model, and please report it",
        details=asdict(comparison),
    )


def _nothing(runs: Runs, name: str) -> dict[str, Any]:
    return {"experts": {"ids": {"all": list(range(runs.shape.experts))}}, "action": {name: 0}}
