"""The selection that is recorded is what the experts do: muting an expert changes its tokens' output, and no others."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from lm_eval_moe.doctor.finding import ProofOutcome, proof
from lm_eval_moe.doctor.witness import LayerWitness
from lm_eval_moe.routers.blocks import NEEDS_ADAPTER
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs

__all__ = ["examine"]


@proof(
    "selection",
    "the experts do what is recorded",
    observes="the output of each block with one expert after the other muted, and what each expert gives alone",
    order=25,
    looks_at="modules",
    if_missing="relies on the selection as the adapter reads it, which is not proven",
)
def examine(runs: Runs) -> ProofOutcome:
    """Mute every expert of every layer, one at a time, and compare what changes with what is recorded."""
    witnesses = runs.witnesses
    layers = {layer: asdict(witness) for layer, witness in witnesses.items()}
    first = next(iter(witnesses.values()))
    ways = sorted({witness.weights_seen_by for witness in witnesses.values() if witness.weights_seen_by})
    details = {"tokens": first.tokens, "weights_seen_by": ways}
    if wrong := {layer: witness for layer, witness in witnesses.items() if witness.wrong}:
        return ProofOutcome(
            "fail",
            f"layer(s) {format_ranges(wrong)} record experts or weights other than those that take effect: "
            + _in_words(*next(iter(wrong.items()))),
            "the adapter reads a selection other than the model's: fix it (docs/adapters.md); for a model without an "
            "adapter of your own, please report it",
            layers,
            details,
        )
    if unseen := {layer: witness.not_seen for layer, witness in witnesses.items() if witness.not_seen}:
        return ProofOutcome(
            "not proven",
            f"in layer(s) {format_ranges(unseen)} this cannot be observed from outside: {next(iter(unseen.values()))}",
            f"compare the selections by hand with what the model's code computes; if they are not read as they should "
            f"be, {NEEDS_ADAPTER}",
            layers,
            details,
        )
    effective = sum(witness.effective for witness in witnesses.values())
    return ProofOutcome(
        "pass",
        f"{effective:,} effects of single experts on the outputs of {first.tokens} tokens: all are recorded, nothing "
        f"else is; weights as seen in {' and '.join(ways)}",
        None,
        layers,
        details,
    )


def _in_words(layer: int, witness: LayerWitness) -> str:
    faults = [
        (witness.silent, "recorded without effect"),
        (witness.unrecorded, "with an effect that is not recorded"),
        (witness.wrong_weights, "with a weight other than the recorded one"),
        (witness.unfollowed, "where a raised logit takes effect differently from what is recorded"),
    ]
    text = ", ".join(f"{count} {what}" for count, what in faults if count)
    return (
        f"in layer {layer}, {witness.recorded} pairs of token and expert are recorded and muting shows "
        f"{witness.effective}: {text}"
    )
