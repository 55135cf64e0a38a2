"""How far `activate` and `mask` reach into the selection, with and without guard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.doctor.finding import ProofOutcome, proof
from lm_eval_moe.doctor.runs import steering_of
from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.number_text import share_text
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs

__all__ = ["examine"]

_SEED = 0
_LARGE = 1000.0  # a bias that decides any comparison of logits
_Targets = dict[int, list[int]]


@proof(
    "reach",
    "activate and mask take effect",
    observes="the selection in steered runs, as torch hooks see it; as it is recorded where there are no modules",
    order=70,
    needs=("selection",),
    shares={
        "activate": "activate",
        "activate_guarded": "activate + guard",
        "bias": "large bias",
        "mask": "mask",
        "mask_guarded": "mask + guard",
    },
    table="reach by layer: tokens at which all activated experts, or any masked expert, are selected",
    runs=5,
)
def examine(runs: Runs) -> ProofOutcome:
    """Measure the share of tokens at which all targets, or any masked expert, are chosen.

    ``activate`` can fall short for two reasons: the router weighs more than logits (groups, a selection bias), or the
    published formula ties its targets with the old favourite up to noise. A large bias, which ties with nothing, tells
    them apart.
    """
    activated, masked = _draw_targets(runs)
    reached: dict[str, list[float]] = {
        "bias": _shares(runs, activated, {"bias": _LARGE}),
        "activate": _shares(runs, activated, "activate"),
    }
    if masked:
        reached["mask"] = _shares(runs, masked, "mask")
    refusal: UserError | None = None
    try:
        reached["activate_guarded"] = _shares(runs, activated, "activate", guard=True)
        if masked:
            reached["mask_guarded"] = _shares(runs, masked, "mask", guard=True)
    except RoutingBypassedError:
        raise
    except UserError as error:
        refusal = error
    means = {name: float(np.mean(shares)) for name, shares in reached.items()}
    layers: dict[int, dict[str, Any]] = {
        layer: {
            **{name: shares[at] for name, shares in reached.items()},
            "activated_experts": activated[layer],
            "masked_experts": masked.get(layer, []),
        }
        for at, layer in enumerate(runs.shape.layers)
    }
    details: dict[str, Any] = {"seed": _SEED, "mean": means}
    if refusal is not None and runs.has_modules:
        return ProofOutcome("fail", refusal.problem, refusal.fix, layers, details)
    if refusal is not None:
        return _judge_without_guard(refusal, reached, layers, details)
    short = _layers_where(runs, reached["activate_guarded"], lambda share: share < 1)
    leaking = _layers_where(runs, reached.get("mask_guarded", []), lambda share: share > 0)
    if short or leaking:
        problems = [f"guarded activate misses tokens in layer(s) {format_ranges(short)}"] if short else []
        problems += [f"guarded mask leaks in layer(s) {format_ranges(leaking)}"] if leaking else []
        return ProofOutcome(
            "fail",
            "; ".join(problems),
            "activate, deactivate and mask do not do what they should on this model; please report it",
            layers,
            details,
        )
    summary = f"with guard 100 % and 0 %; without {share_text(means['activate'])}"
    summary += f" and {share_text(means['mask'])}" if masked else " (no expert can be spared for mask)"
    return ProofOutcome("pass", summary, None, layers, details, _notes(runs, reached, means))


def _judge_without_guard(
    refusal: UserError, reached: dict[str, list[float]], layers: dict[int, dict[str, Any]], details: dict[str, Any]
) -> ProofOutcome:
    """Judge a backend that ignores the guard for this model: raised logits decide, or it cannot be said what does."""
    if min(reached["bias"]) == 1 and not any(reached.get("mask", [])):
        summary = "raised and masked logits decide at every token; the guard has no effect"
        return ProofOutcome("pass", summary, None, layers, details)
    return ProofOutcome(
        "not proven", f"logits do not decide alone, and {refusal.problem}", refusal.fix, layers, details
    )


def _notes(runs: Runs, reached: dict[str, list[float]], means: dict[str, float]) -> tuple[str, ...]:
    overruled = sorted(
        {
            *_layers_where(runs, reached["bias"], lambda share: share < 1),
            *_layers_where(runs, reached.get("mask", []), lambda share: share > 0),
        }
    )
    notes = []
    if overruled:
        mask = f" Masked experts are still selected at {share_text(leak)}." if (leak := means.get("mask")) else ""
        notes.append(
            "Write guard: true in steering files for this model (activate, deactivate, mask). In layer(s) "
            f"{format_ranges(overruled)} the router weighs more than logits (groups of experts or a selection bias): "
            f"logits raised far above all others get all targets selected at {share_text(means['bias'])} of "
            f"tokens.{mask}"
        )
    tied = _layers_where(
        runs,
        [a if b == 1 else 1.0 for a, b in zip(reached["activate"], reached["bias"], strict=True)],
        lambda share: share < 1,
    )
    if tied:
        share = np.mean([reached["activate"][runs.shape.layers.index(layer)] for layer in tied])
        count = min(runs.shape.top_k, 2 if runs.has_modules else 1)
        notes.append(
            f"activate of {count} expert(s) reaches {share_text(float(share))} of tokens in "
            f"layer(s) {format_ranges(tied)}. That is due to its formula, not to this model: targets tie with the old "
            "favourite up to noise and rounding, and may lose to it. Write guard: true where every target must be "
            "selected."
        )
    return tuple(notes)


def _layers_where(runs: Runs, shares: list[float], wrong: Any) -> list[int]:
    return [layer for layer, share in zip(runs.shape.layers, shares, strict=False) if wrong(share)]


def _draw_targets(runs: Runs) -> tuple[_Targets, _Targets]:
    """Draw experts to activate, and of those that the plain model selects, experts to mask.

    Two of each; one where records alone are to be seen, which do not say whether two experts served the same token.
    """
    experts, top_k = runs.shape.experts, runs.shape.top_k
    most, run = (2, runs.plain) if runs.has_modules else (1, runs.captured)
    activated: _Targets = {}
    masked: _Targets = {}
    for position, layer in enumerate(runs.shape.layers):
        rng = np.random.default_rng([_SEED, layer])
        activated[layer] = sorted(rng.choice(experts, min(top_k, most), replace=False).tolist())
        used = np.flatnonzero(
            np.sum([runs.counts(run, position, sentence) for sentence in runs.sentences], axis=0)
        ).tolist()
        count = min(top_k, most, experts - top_k, len(used))
        if count:
            masked[layer] = sorted(rng.choice(used, count, replace=False).tolist())
    return activated, masked if len(masked) == len(activated) else {}


def _shares(runs: Runs, targets: _Targets, action: str | dict[str, float], *, guard: bool = False) -> list[float]:
    """Return by layer the share of tokens at which any masked expert, or otherwise all targets, are chosen."""
    name = action if isinstance(action, str) else next(iter(action))
    steering = steering_of({"experts": {"ids": targets}, "action": action, **({"guard": True} if guard else {})})
    label = f"{name}{' with guard' if guard else ''}"
    run = runs.score(label, steering=steering, capture=runs.observing, logits=False)
    shares = []
    for position, layer in enumerate(runs.shape.layers):
        if not runs.has_modules:
            selected = np.sum([runs.counts(run, position, sentence) for sentence in runs.sentences], axis=0)
            shares.append(
                float(selected[targets[layer]].sum() / sum(len(sentence.tokens) for sentence in runs.sentences))
            )
            continue
        indices = np.concatenate([run.received(position, sentence).indices for sentence in run.sentences])
        is_selected = np.stack([(indices == expert).any(1) for expert in targets[layer]])
        shares.append(float((is_selected.any(0) if name == "mask" else is_selected.all(0)).mean()))
    return shares
