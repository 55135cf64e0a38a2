"""What is captured is what the experts receive, as plain torch hooks see it in a run without interception."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.doctor.finding import ProofOutcome, proof
from lm_eval_moe.shape import format_ranges

if TYPE_CHECKING:
    from lm_eval_moe.doctor.runs import Runs

__all__ = ["examine"]


@proof(
    "capture_counts",
    "capture matches the experts",
    observes="the selection as torch hooks see it in a run without interception, recounted by sentence",
    order=30,
    looks_at="modules",
    needs=("selection",),
)
def examine(runs: Runs) -> ProofOutcome:
    """Count again, in NumPy, over each sentence's own tokens."""
    experts = runs.shape.experts
    layers: dict[int, dict[str, Any]] = {}
    selections = 0
    for position, layer in enumerate(runs.shape.layers):
        wrong_counts, wrong_mass, total = 0, 0, 0
        for sentence in runs.sentences:
            selected = runs.plain.received(position, sentence)
            record = runs.captured.records.get(sentence.number)
            expert_ids = selected.indices.ravel()
            counts = np.bincount(expert_ids, minlength=experts + 1)[:experts]
            mass = np.bincount(expert_ids, selected.weights.ravel(), experts + 1)[:experts]
            size = np.bincount(expert_ids, np.abs(selected.weights).ravel(), experts + 1)[:experts]
            rounding = (len(sentence.tokens) + 1) * float(np.finfo(np.float32).eps) * size
            total += int(counts.sum())
            if record is None or record.counts is None or record.gate_mass is None:
                wrong_counts += experts
                continue
            wrong_counts += int((record.counts[position] != counts).sum())
            wrong_mass += int((np.abs(record.gate_mass[position] - mass) > rounding).sum())
        layers[layer] = {"selections": total, "wrong_counts": wrong_counts, "wrong_gate_mass": wrong_mass}
        selections += total
    bad = [layer for layer, values in layers.items() if values["wrong_counts"] or values["wrong_gate_mass"]]
    details = {"selections": selections, "sentences": len(runs.sentences)}
    if bad:
        return ProofOutcome(
            "fail",
            f"counts or gate mass differ from what the experts receive in layer(s) {format_ranges(bad)}",
            "the routing fields of this model's results cannot be trusted; please report it",
            layers,
            details,
        )
    return ProofOutcome("pass", f"{selections:,} selections recounted: all equal", None, layers, details)
