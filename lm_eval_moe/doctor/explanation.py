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
        "interventions": [_intervention(each) for each in plan.interventions],
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


def _intervention(each: PlannedIntervention) -> dict[str, Any]:
    return {
        "index": each.index,
        "action": each.action.dump(),
        "guard": each.guard,
        "tokens": each.tokens,
        "languages": each.languages.dump(),
        "experts": sum(len(targets.experts) for targets in each.targets.values()),
        "targets": {
            str(layer): dict(zip(map(str, targets.experts), targets.coefficients, strict=True))
            for layer, targets in each.targets.items()
        },
    }


def action_in_words(each: PlannedIntervention) -> str:
    """Write the action, its strength and guard: ``soft 0.5, without guard``."""
    dumped = each.action.dump()
    action = dumped if isinstance(dumped, str) else " ".join(f"{name} {value:g}" for name, value in dumped.items())
    if each.action.guards_by is None:
        return action
    return f"{action}, {'with' if each.guard else 'without'} guard"


def tokens_in_words(each: PlannedIntervention) -> str:
    """Write which tokens are steered."""
    return _TOKENS[each.tokens]


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
            named = format_ranges(experts)
        else:
            named = ", ".join(f"{e} (x {c:g})" for e, c in zip(experts, coefficients, strict=True))
        yield format_ranges(layers), named, len(experts)


def _with_runs(targets: Iterable[LayerTargets]) -> Iterator[tuple[int, LayerTargets]]:
    """Pair each layer's targets with a number that is the same for consecutive layers."""
    for place, each in enumerate(sorted(targets, key=lambda entry: entry.layer)):
        yield each.layer - place, each
