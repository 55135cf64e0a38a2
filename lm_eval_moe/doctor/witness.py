"""Which experts a layer's tokens use, and with what weights, as muting the experts shows; compared with the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from lm_eval_moe.doctor.replay import Call, noted_calls
from lm_eval_moe.doctor.stage import Effect, RecordedSelection, Stage
from lm_eval_moe.routers import intercepted
from lm_eval_moe.routers.parts import ExpertParts, expert_parts
from lm_eval_moe.routers.selection_listener import SelectionListener

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_moe.backends.base import TorchModules
    from lm_eval_moe.routers import RouterSite
    from lm_eval_moe.shape import RoutingShape

__all__ = ["LayerWitness", "witness", "witnesses"]

ONE_HOT = "one-hot calls of the experts"
OWN_MODULE = "the experts' own modules"
RAISED = "raised logits (up to one factor for each expert and token)"
SCALED = "the experts' scaled inputs"

_RAISED_EXPERTS = 2
_SIGMAS = 8.0
_RELATIVE = 1e-4  # experts that are called with other numbers of tokens sum in another order


@dataclass(frozen=True)
class LayerWitness:
    """What one layer's experts did, besides what is recorded; a pair is a token and an expert.

    Attributes:
        tokens: How many were looked at.
        recorded: Pairs that are recorded with a weight.
        effective: Pairs where muting the expert changes the token's output.
        silent: Pairs that are recorded, but without any effect; those lost in rounding are not counted.
        unrecorded: Pairs with an effect that are not recorded.
        wrong_weights: Pairs whose effect is not the recorded weight times the expert's own output.
        weighed: Pairs whose weight was seen.
        weights_seen_by: How the experts' own outputs were seen, None if they were not.
        unfollowed: Tokens at which, with one expert's logit raised, the record of it and its effect differ; None where
            the experts get their selection as arguments.
        rows_received: Rows that the experts' own modules were called with, None where they have none.
        not_seen: Why nothing, or no weight, could be seen.
    """

    tokens: int
    recorded: int = 0
    effective: int = 0
    silent: int = 0
    unrecorded: int = 0
    wrong_weights: int = 0
    weighed: int = 0
    weights_seen_by: str | None = None
    unfollowed: int | None = None
    rows_received: int | None = None
    not_seen: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether anything that was seen contradicts the record."""
        return bool(self.silent or self.unrecorded or self.wrong_weights or self.unfollowed)


def witnesses(
    modules: TorchModules,
    shape: RoutingShape,
    tokens: Sequence[int],
    progress: Callable[[str], object],
) -> dict[int, LayerWitness]:
    """Run tokens through a model once, then mute every expert of every layer.

    Args:
        modules: The model's.
        shape: Its routing shape.
        tokens: One row.
        progress: Is called for each layer.

    Returns:
        By decoder layer, what its experts did, besides what was recorded.
    """
    sites = modules.sites
    parts = [expert_parts(site.module, site.block) for site in sites]
    homes = [dict(_homes(site.module, part)) if part else {} for site, part in zip(sites, parts, strict=True)]
    holders = {(position, name): module for position, names in enumerate(homes) for name, module in names.items()}
    listener = SelectionListener()
    by_layer: dict[int, LayerWitness] = {}
    with modules.running():
        with noted_calls(holders) as calls, intercepted(sites, listener, top_k=shape.top_k):
            modules.model(torch.tensor([list(tokens)], device=modules.device))
        for position, (site, part) in enumerate(zip(sites, parts, strict=True)):
            progress(f"muting experts of layer {site.layer}")
            recorded = RecordedSelection.of(*listener.selections[position], shape.experts, skips=bool(site.block.extra))
            if part is None:
                why = "nothing in the block exists once per expert"
                by_layer[site.layer] = LayerWitness(len(recorded.chosen), not_seen=why)
                continue
            once = {name: calls[position, name][0] for name in homes[position] if len(calls[position, name]) == 1}
            by_layer[site.layer] = witness(site, part, list(once.values()), once.get(part.home), recorded, shape.top_k)
    return by_layer


def _homes(block: nn.Module, parts: ExpertParts) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that hold all experts of a block, by name, from the innermost to the block itself."""
    names = parts.home.split(".") if parts.home else []
    for depth in range(len(names), -1, -1):
        name = ".".join(names[:depth])
        yield name, block.get_submodule(name)


def witness(
    site: RouterSite, parts: ExpertParts, calls: list[Call], home: Call | None, recorded: RecordedSelection, top_k: int
) -> LayerWitness:
    """Compare a layer's record of one forward pass with what its experts did.

    Args:
        site: The layer.
        parts: What belongs to each expert alone.
        calls: How the modules that hold all experts were called, the innermost first.
        home: The call of the innermost of them, if it was called.
        recorded: What was recorded of the pass.
        top_k: Experts selected per token, K.
    """
    tokens = len(recorded.chosen)
    call = next((call for call in calls if call.selection is not None), calls[-1] if calls else None)
    if call is None or (call.selection is None and call.module is not site.module):
        return LayerWitness(tokens, not_seen="the block is not called once, as a module, in a forward pass")
    if len(call.output) != tokens:
        return LayerWitness(
            tokens, not_seen=f"the block returns {len(call.output)} rows, but {tokens} tokens are recorded"
        )
    with parts.in_memory():
        stage = Stage(site, parts, call, top_k)
        if not stage.repeats:
            return LayerWitness(tokens, not_seen="the block gives a different output when it is called again")
        return _compare(stage, recorded, home)


def _compare(stage: Stage, recorded: RecordedSelection, home: Call | None) -> LayerWitness:
    experts = stage.parts.count
    effects = [stage.mute(expert, recorded=bool(recorded.chosen[:, expert].any())) for expert in range(experts)]
    changed = torch.stack([effect.changed for effect in effects], 1)
    witness = LayerWitness(
        len(recorded.chosen),
        recorded=int((recorded.chosen & (recorded.weights != 0)).sum()),
        effective=int(changed.sum()),
        rows_received=stage.rows_received,
    )
    if not changed.any():
        return replace(witness, not_seen="putting zeros in place of the experts' parameters changes nothing")
    witness = replace(
        witness,
        unrecorded=int((changed & ~recorded.chosen).sum()) + recorded.outside,
        silent=_silent(stage, effects, recorded, changed) + recorded.repeated,
    )
    if stage.call.selection is None:
        least_used = recorded.chosen.sum(0).argsort()[:_RAISED_EXPERTS]
        raised = [pair for expert in least_used.tolist() if (pair := stage.raised(expert)) is not None]
        if not raised:
            return replace(witness, not_seen="the router is not called within the block")
        witness = replace(witness, unfollowed=sum(_count_unfollowed(*pair, 4 * stage.noise) for pair in raised))
    return _compare_weights(witness, stage, effects, recorded, stage.scaled_inputs(home))


def _count_unfollowed(change: Tensor, weights: Tensor, noise: float) -> int:
    """Count the tokens at which an expert is recorded, but has no effect, or the other way round."""
    return int(((change.abs().nan_to_num(torch.inf).amax(-1) > noise) != (weights != 0)).sum())


def _silent(stage: Stage, effects: list[Effect], recorded: RecordedSelection, changed: Tensor) -> int:
    """Count recorded pairs without effect, but for those whose part in the output is lost in rounding."""
    size = stage.output.double().abs().amax(-1).cpu()
    silent = 0
    for expert, effect in enumerate(effects):
        weights = recorded.weights[:, expert]
        if effect.alone is None:
            expected = weights.abs() * size
        else:
            unit = 1.0 if effect.unit is None else effect.unit
            expected = (weights / unit).abs() * effect.alone.abs().amax(-1)
        # What was not seen alone is NaN: it is not small.
        small = (weights == 0) | (expected <= stage.eps * size + 4 * stage.noise)
        silent += int((recorded.chosen[:, expert] & ~changed[:, expert] & ~small).sum())
    return silent


def _compare_weights(
    witness: LayerWitness, stage: Stage, effects: list[Effect], recorded: RecordedSelection, scaled: Tensor | None
) -> LayerWitness:
    """Compare the recorded weights with those that the effects show."""
    if scaled is not None:
        off = (scaled - recorded.weights).abs() > 4 * stage.eps * (1 + recorded.weights.abs())
        return replace(
            witness,
            wrong_weights=int((off & recorded.chosen).sum()),
            weighed=int(recorded.chosen.sum()),
            weights_seen_by=SCALED,
        )
    compared = wrong = differing = 0
    output = stage.output.double().cpu().abs()
    for expert, effect in enumerate(effects):
        if effect.alone is None:
            continue
        alone = effect.alone if effect.unit is None else effect.alone / effect.unit[:, None]
        at = effect.changed & recorded.chosen[:, expert] & (alone.norm(dim=-1) > 0)
        alone, change, weights, size = alone[at], effect.change[at], recorded.weights[at, expert], output[at]
        length = alone.norm(dim=-1)
        ratio = (change * alone).sum(-1) / length.square()
        # Each of about K + 2 roundings of an element is off by half a unit in its last place at most.
        magnitude = size + (ratio[:, None] * alone).abs()
        spread = 0.5 * stage.eps * (stage.top_k + 2) ** 0.5 * magnitude
        slack = (4 * stage.eps + _RELATIVE) * weights.abs() * length
        off = (ratio - weights).abs() * length > _SIGMAS * (spread * alone).norm(dim=-1) / length + slack
        rest = (change - ratio[:, None] * alone).norm(dim=-1)
        along = rest <= _SIGMAS * spread.norm(dim=-1) + (32 * stage.eps + 10 * _RELATIVE) * ratio.abs() * length
        compared, wrong, differing = (
            compared + int(at.sum()),
            wrong + int((off | ~along).sum()),
            differing + int((~along).sum()),
        )
    if not compared or 10 * differing > compared:
        why = "an expert's effect is not a multiple of what it gives alone" if compared else "no expert is seen alone"
        return replace(witness, not_seen=f"the combine weights: {why}")
    relative = any(effect.unit is not None for effect in effects)
    how = ONE_HOT if stage.call.selection is not None else RAISED if relative else OWN_MODULE
    return replace(witness, wrong_weights=wrong, weighed=compared, weights_seen_by=how)
