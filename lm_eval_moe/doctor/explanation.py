"""What a steering file does to a model, said exactly: which experts of which layers, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from lm_eval_moe.steering import LanguageFilter, LayerTargets, SteeringPlan
    from lm_eval_moe.steering.plan import PlannedIntervention

__all__ = ["action_in_words", "explain", "languages_in_words", "targets_by_layers", "tokens_in_words"]

_TOKENS = {
    "all": "all tokens",
    "prompt": "prompt tokens",
    "generated": "generated tokens (in scoring: the continuation)",
}


def explain(plan: SteeringPlan) -> dict[str, Any]:
    """Return the explanation of a plan as JSON-ready values."""
    touched = plan.experts_by_layer()
    return {
        "name": plan.name,
        "hash": plan.hash,
        "interventions": [_intervention(intervention) for intervention in plan.interventions],
        "touched": {
            "layers": list(touched),
            "experts": sum(map(len, touched.values())),
            "experts_by_layer": {str(layer): experts for layer, experts in touched.items()},
        },
        "untouched": {
            "layers": [layer for layer in plan.shape.layers if layer not in touched],
            "experts": plan.shape.experts * len(plan.shape.layers) - sum(map(len, touched.values())),
        },
    }


def _intervention(intervention: PlannedIntervention) -> dict[str, Any]:
    return {
        "index": intervention.index,
        "action": intervention.action.dump(),
        "guard": intervention.guard,
        "tokens": intervention.tokens,
        "languages": intervention.languages.dump(),
        "experts": sum(len(targets.experts) for targets in intervention.targets.values()),
        "targets": {
            str(layer): dict(zip(map(str, targets.experts), targets.coefficients, strict=True))
            for layer, targets in intervention.targets.items()
        },
    }


def action_in_words(intervention: PlannedIntervention) -> str:
    """Write the action, its strength and guard: ``soft 0.5, without guard``."""
    dumped = intervention.action.dump()
    action = dumped if isinstance(dumped, str) else " ".join(f"{name} {value:g}" for name, value in dumped.items())
    if intervention.action.guards_by is None:
        return action
    return f"{action}, {'with' if intervention.guard else 'without'} guard"


def tokens_in_words(intervention: PlannedIntervention) -> str:
    """Write which tokens are steered."""
    return _TOKENS[intervention.tokens]


def languages_in_words(languages: LanguageFilter) -> str:
    """Write which languages are steered."""
    if languages.only is not None:
        return f"languages: {', '.join(sorted(languages.only))}"
    if languages.but:
        return f"all languages but {', '.join(sorted(languages.but))}"
    return "all languages"


def targets_by_layers(targets: Iterable[LayerTargets]) -> Iterator[tuple[str, str, int]]:
    """Yield layer ranges, their experts, and how many; consecutive layers with the same targets are one range."""
    for same, group in groupby(
        _with_runs(targets), key=lambda entry: (entry[0], entry[1].experts, entry[1].coefficients)
    ):
        _, experts, coefficients = same
        layers = [entry[1].layer for entry in group]
        if all(coefficient == 1 for coefficient in coefficients):
            text = format_ranges(experts)
        else:
            text = ", ".join(f"{e} (x {c:g})" for e, c in zip(experts, coefficients, strict=True))
        yield format_ranges(layers), text, len(experts)


def _with_runs(targets: Iterable[LayerTargets]) -> Iterator[tuple[int, LayerTargets]]:
    """Pair each layer's targets with a number that is the same for consecutive layers."""
    for place, target in enumerate(sorted(targets, key=lambda entry: entry.layer)):
        yield target.layer - place, target
