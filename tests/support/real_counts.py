"""Published counts of Qwen3-30B-A3B, and the selection rules written out with plain loops over them."""

from __future__ import annotations

import json

from support.paths import SHARED

FOLDER = SHARED / "routing-qwen3-30b-a3b-mgsm"

Frequencies = dict[str, dict[int, dict[int, float]]]
Found = dict[int, dict[int, float]]


def frequencies(languages: tuple[str, ...]) -> Frequencies:
    """Activation frequencies a / T."""
    found: Frequencies = {}
    for language in languages:
        dump = json.loads((FOLDER / f"mgsm_{language}.json").read_text())
        found[language] = {
            int(layer): {
                int(expert): entry["activation_tokens"] / entries["total_tokens"]
                for expert, entry in entries.items()
                if expert != "total_tokens"
            }
            for layer, entries in dump.items()
        }
    return found


def shares(languages: tuple[str, ...], top_m: int) -> Frequencies:
    """Steps 1 and 2: the top_m of every layer, and each language's share of them."""
    kept: Frequencies = {}
    for language, layers in frequencies(languages).items():
        kept[language] = {}
        for layer, experts in layers.items():
            top = sorted(experts, key=lambda expert, f=experts: (-f[expert], expert))[:top_m]  # type: ignore[misc]
            kept[language][layer] = {expert: experts[expert] if expert in top else 0.0 for expert in experts}
    return {
        language: {
            layer: {
                expert: f / (sum(kept[other][layer][expert] for other in languages) + 1e-10)
                for expert, f in experts.items()
            }
            for layer, experts in layers.items()
        }
        for language, layers in kept.items()
    }


def oracle_shared(languages: tuple[str, ...], top_m: int, theta: float, source: str, layers: range) -> Found:
    found: Found = {}
    share = shares(languages, top_m)
    for layer in layers:
        for expert in range(128):
            each = [share[language][layer][expert] for language in languages]
            if any(p > 0 for p in each) and all(p < theta for p in each):
                found.setdefault(layer, {})[expert] = share[source][layer][expert]
    return found


def oracle_exclusive(
    languages: tuple[str, ...], group: tuple[str, ...], top_m: int, theta: float, layers: range
) -> Found:
    found: Found = {}
    share = shares(languages, top_m)
    for layer in layers:
        for expert in range(128):
            total = sum(share[language][layer][expert] for language in group)
            if total >= theta:
                found.setdefault(layer, {})[expert] = total
    return found
