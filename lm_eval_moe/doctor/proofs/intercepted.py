"""Every mixture-of-experts layer is intercepted, in log-likelihood and in generation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lm_eval_moe.doctor.anatomy import uncovered_layers
from lm_eval_moe.doctor.finding import ProofOutcome, proof
from lm_eval_moe.routers.blocks import NEEDS_ADAPTER
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs
    from lm_eval_moe.recording import RoutingRecord

__all__ = ["examine"]


@proof(
    "intercepted",
    "every MoE layer is intercepted",
    observes="the records of every layer, and the modules of all decoder layers: which of them have experts",
    order=10,
)
def examine(runs: Runs) -> ProofOutcome:
    """Look for layers of which nothing was recorded, and for experts that no router was found for."""
    layers_by_way = {
        "log-likelihood": _layers_seen(runs, runs.captured.records),
        "generation": _layers_seen(runs, runs.generated_captured.records),
    }
    layers = {layer: {how: layer in recorded for how, recorded in layers_by_way.items()} for layer in runs.shape.layers}
    uncovered = uncovered_layers(runs.modules.model, runs.modules.sites) if runs.has_modules else ()
    gaps = [
        f"layer(s) {format_ranges(missing)} in {how}"
        for how, recorded in layers_by_way.items()
        if (missing := [layer for layer in runs.shape.layers if layer not in recorded])
    ]
    if uncovered:
        gaps.append(f"layer(s) {format_ranges(uncovered)}, which have experts but no recognised router")
    if gaps:
        return ProofOutcome(
            "fail", f"not seen: {'; '.join(gaps)}", NEEDS_ADAPTER, layers, {"uncovered": list(uncovered)}
        )
    count = len(runs.shape.layers)
    return ProofOutcome("pass", f"{count} of {count} layers, in log-likelihood and in generation", layers=layers)


def _layers_seen(runs: Runs, records: Mapping[int, RoutingRecord]) -> set[int]:
    counts = [record.counts for record in records.values() if record.counts is not None]
    return {
        layer for at, layer in enumerate(runs.shape.layers) if any(record_counts[at].any() for record_counts in counts)
    }
