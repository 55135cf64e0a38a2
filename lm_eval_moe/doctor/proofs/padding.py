"""Padding is routed by the model, but never counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe.doctor.finding import ProofOutcome, proof

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs

__all__ = ["examine"]


@proof(
    "padding",
    "padding is not counted",
    observes="the tokens of each sentence, and those that the model is fed",
    order=40,
    needs=("selection",),
)
def examine(runs: Runs) -> ProofOutcome:
    """Compare what was counted with the requests' own tokens, K selections for each."""
    run = runs.captured
    tokens = sum(len(sentence.tokens) for sentence in runs.sentences)
    padding = run.padding if runs.has_modules else None
    details = {"own_tokens": tokens, "padding_tokens": padding, "batches": len(run.passes) or None}
    wrong = [
        f"{sentence.language}: {problem}"
        for sentence in runs.sentences
        if (problem := runs.miscounted(run.records.get(sentence.number), len(sentence.tokens)))
    ]
    if wrong:
        return ProofOutcome(
            "fail",
            f"{len(wrong)} of {len(runs.sentences)} requests are counted wrongly ({wrong[0]})",
            "the routing fields of this model's results cannot be trusted; please report it",
            details={**details, "wrong": wrong},
        )
    at_most = "at most " if runs.skips else ""
    counted = f"{tokens:,} own tokens, {at_most}{runs.shape.top_k} choices each"
    if padding is None:
        return ProofOutcome("pass", f"{counted}, nothing else", details=details)
    if not padding:
        why = "batches of one row have none; use a batch size of 2 or more" if len(run.passes) > 1 else "there was none"
        return ProofOutcome("not applicable", f"no padding to leave out: {why}", details=details)
    return ProofOutcome("pass", f"{counted}; {padding} padding tokens left out", details=details)
