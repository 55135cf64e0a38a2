"""Every layer's router decides: steering it alone changes the output, and the experts get what the router returns.

A block may call its router and then choose again by itself. All other proofs would hold of it, and steering would be
without effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.doctor.compare import same_bits
from lm_eval_moe.doctor.finding import ProofOutcome, proof
from lm_eval_moe.doctor.runs import steering_of
from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.routers.blocks import NEEDS_ADAPTER
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs, ScoringRun

__all__ = ["examine"]


@proof(
    "effect",
    "each router decides its layer",
    observes="the logits (or scores) when one layer alone is steered, and what its experts then receive or do",
    order=60,
    needs=("selection",),
    runs_per_layer=1,
)
def examine(runs: Runs) -> ProofOutcome:
    """Activate the least used experts of one layer at a time."""
    layers: dict[int, dict[str, Any]] = {}
    for position, layer in enumerate(runs.shape.layers):
        steered = _score_steered(runs, position, layer)
        layers[layer] = (
            {
                "tokens_changed": _tokens_changed(runs, steered),
                "experts_get_what_router_returns": _handed_on(runs, steered, position),
            }
            if runs.has_modules
            else {"sentences_changed": _sentences_changed(runs, steered)}
        )
    still = [layer for layer, values in layers.items() if not next(iter(values.values()))]
    bypassing = [layer for layer, values in layers.items() if values.get("experts_get_what_router_returns") is False]
    tokens = sum(len(sentence.tokens) for sentence in runs.few)
    details = {"tokens": tokens}
    if not still and not bypassing:
        return ProofOutcome(
            "pass", f"steering any one of {len(layers)} layers changes the output", None, layers, details
        )
    problems = []
    if still:
        unit = "logit" if runs.has_modules else "score"
        problems.append(f"steering layer(s) {format_ranges(still)} alone changes no {unit}")
    if bypassing:
        problems.append(
            f"the experts of layer(s) {format_ranges(bypassing)} receive a selection other than their router's"
        )
    return ProofOutcome(
        "fail",
        f"{'; '.join(problems)}: the block does not follow its router's choice",
        f"load the model without replaced kernels; if that does not help, {NEEDS_ADAPTER}",
        layers,
        details,
    )


def _tokens_changed(runs: Runs, steered: ScoringRun) -> int:
    return sum(
        not same_bits(plain, now)
        for sentence in runs.few
        for plain, now in zip(runs.plain_few.logits(sentence), steered.logits(sentence), strict=True)
    )


def _sentences_changed(runs: Runs, steered: ScoringRun) -> int:
    return sum(plain[0] != now[0] for plain, now in zip(runs.plain_few.answers, steered.answers, strict=True))


def _score_steered(runs: Runs, position: int, layer: int) -> ScoringRun:
    targets = _least_used(runs, position)

    def run(*, guard: bool) -> ScoringRun:
        steering = steering_of(
            {"experts": {"ids": {layer: targets}}, "layers": layer, "action": "activate", "guard": guard}
        )
        return runs.score(
            f"steering layer {layer}", steering=steering, sentences=runs.few, positions=[position], routers=True
        )

    try:
        return run(guard=True)
    except RoutingBypassedError:
        raise
    except UserError:  # the guard is refused, which the proof of reach reports
        return run(guard=False)


def _least_used(runs: Runs, position: int) -> list[int]:
    run = runs.plain if runs.has_modules else runs.captured
    used = np.sum([runs.counts(run, position, sentence) for sentence in runs.sentences], axis=0)
    return sorted(int(expert) for expert in np.argsort(used, kind="stable")[: min(runs.shape.top_k, 2)])


def _handed_on(runs: Runs, run: ScoringRun, position: int) -> bool | None:
    """Whether the experts received the choice that the router returned; None if that cannot be seen."""
    if not runs.modules.sites[position].block.hands_on_selection:
        unfollowed = runs.witnesses[runs.shape.layers[position]].unfollowed
        return None if unfollowed is None else not unfollowed
    same = True
    for forward_pass in run.passes:
        returned = forward_pass.returned.get(position)
        if returned is None:
            return None
        same = same and bool((np.sort(returned) == np.sort(forward_pass.received[position].indices)).all())
    return same
