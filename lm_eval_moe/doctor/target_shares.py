"""What a steering file reaches on the doctor's sentences: how often a targeted expert is chosen, steered and not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lm_eval_moe.doctor.runs import Runs, ScoringRun, TokenizedSentence
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["LayerTargetShares", "TargetShares", "measure"]


@dataclass(frozen=True)
class LayerTargetShares:
    """One steered layer.

    Attributes:
        tokens: Tokens of the sentences at which an intervention is in force.
        unsteered: Share of them at which the plain model chooses a targeted expert; None without tokens.
        steered: The same with steering.
    """

    tokens: int
    unsteered: float | None
    steered: float | None


@dataclass(frozen=True)
class TargetShares:
    """What a plan reaches.

    Attributes:
        layers: By decoder layer.
        languages: Languages of the sentences at which anything is in force.
        tokens: Tokens of all sentences.
    """

    layers: dict[int, LayerTargetShares]
    languages: tuple[str, ...]
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return the reach as JSON-ready values."""
        return {
            "tokens": self.tokens,
            "languages": list(self.languages),
            "layers": {str(layer): asdict(reach) for layer, reach in self.layers.items()},
        }


def measure(runs: Runs, plan: SteeringPlan) -> TargetShares:
    """Run the sentences with a plan and compare with the plain run, by what the experts receive."""
    steered = runs.score("the steering file", steering=plan, logits=False)
    layers = {}
    for position, layer in enumerate(plan.shape.layers):
        if any(layer in intervention.targets for intervention in plan.interventions):
            counts = [_count_targets(run, position, layer, plan) for run in (runs.plain, steered)]
            tokens = counts[0][0]
            shares = [hits / tokens if tokens else None for _, hits in counts]
            layers[layer] = LayerTargetShares(tokens, *shares)
    languages = sorted(
        {
            sentence.language
            for sentence in runs.sentences
            if any(i.languages.admits(sentence.language) for i in plan.interventions)
        }
    )
    return TargetShares(layers, tuple(languages), sum(len(sentence.tokens) for sentence in runs.sentences))


def _count_targets(run: ScoringRun, position: int, layer: int, plan: SteeringPlan) -> tuple[int, int]:
    """Return the tokens at which an intervention is in force in a layer, and those with a targeted expert."""
    tokens = hits = 0
    for sentence in run.sentences:
        indices = run.received(position, sentence).indices
        in_force = np.zeros(len(indices), dtype=bool)
        hit = np.zeros(len(indices), dtype=bool)
        for intervention in plan.interventions:
            if layer in intervention.targets and intervention.languages.admits(sentence.language):
                here = _phase(sentence, intervention.tokens)
                in_force |= here
                hit |= here & np.isin(indices, intervention.targets[layer].experts).any(1)
        tokens += int(in_force.sum())
        hits += int(hit.sum())
    return tokens, hits


def _phase(sentence: TokenizedSentence, which: str) -> NDArray[np.bool_]:
    generated = np.arange(len(sentence.tokens)) >= sentence.boundary
    return np.ones_like(generated) if which == "all" else generated == (which == "generated")
