"""What a recorder leaves of the segments of one path, and the record that they add up to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.routing_record import RoutingRecord

__all__ = ["SegmentSums"]


@dataclass(frozen=True)
class SegmentSums:
    """Sums over the tokens of the segments of one path, as the recorder leaves them; None for what it did not sum.

    Shapes: S segments, L MoE layers, E experts. All sums are over the tokens that count; ``pairs_inside`` sums the
    overlap of consecutive tokens of one segment, ``pairs_before`` that of a segment's first token with the last one of
    the segment before it, which counts only where both belong to the span.
    """

    tokens: NDArray[np.int64]  # [S]
    joined: NDArray[np.int64]  # [S], 1 where the segment follows another one token to token
    routed: NDArray[np.float64] | None  # [S, L], tokens that a routed expert was selected for with a weight
    counts: NDArray[np.float64] | None  # [S, L, E]
    gate_mass: NDArray[np.float64] | None  # [S, L, E]
    importance: NDArray[np.float64] | None  # [S, L, E], sums of renormalised combine weights
    importance_dense: NDArray[np.float64] | None  # [S, L, E], sums of the router's dense distribution
    pairs_inside: NDArray[np.float64] | None  # [S, L]
    pairs_before: NDArray[np.float64] | None  # [S, L]
    targeted: NDArray[np.float64]  # [S, L]
    hit: NDArray[np.float64]  # [S, L]
    changed: NDArray[np.float64]  # [S, L]

    def spliced(self, above: SegmentSums, layer: int) -> SegmentSums:
        """Return the sums of a path whose tokens are in one forest up to a layer and in another one from it on.

        So run the cells of a sweep: all share the layers below the first one that is steered, and have segments of
        their own, of as many tokens, above.

        Args:
            above: The sums of the path above.
            layer: Place of the first layer that is taken from there, from 0.
        """
        merged: dict[str, object] = {"tokens": self.tokens, "joined": self.joined}
        for field in fields(SegmentSums):
            low, high = getattr(self, field.name), getattr(above, field.name)
            if field.name not in merged:
                merged[field.name] = None if low is None else np.concatenate([low[:, :layer], high[:, layer:]], axis=1)
        return SegmentSums(**merged)  # type: ignore[arg-type]

    def merged(self, groups: Sequence[Sequence[int]]) -> SegmentSums:
        """Return the sums with consecutive segments added up as one.

        Args:
            groups: Places of the segments of each, in their order; none: a segment without tokens.
        """
        if [list(group) for group in groups] == [[place] for place in range(len(self.tokens))] and self.tokens.all():
            return self
        values: dict[str, Any] = {}
        for field in fields(SegmentSums):
            mine = getattr(self, field.name)
            values[field.name] = None if mine is None else np.stack([mine[list(group)].sum(0) for group in groups])
        leads = [next((place for place in group if self.tokens[place]), None) for group in groups]
        followers = [[place for place in group if place != lead] for group, lead in zip(groups, leads, strict=True)]
        values["joined"] = np.array([0 if lead is None else self.joined[lead] for lead in leads], dtype=np.int64)
        if self.pairs_inside is not None and self.pairs_before is not None:
            over = np.stack([self.pairs_before[rest].sum(0) for rest in followers])  # pairs over seams, now inside
            values["pairs_inside"] += over
            values["pairs_before"] -= over
        return SegmentSums(**values)

    def take(
        self, segments: Sequence[int], full_path: Sequence[int], arrays: Collection[str], thinking: int | None = None
    ) -> RoutingRecord:
        """Return the record of consecutive segments, by their place in the path; only ``arrays`` are kept.

        What steering did is reported for the whole sequence, whatever span the routing is compared on; so is
        ``thinking`` (see `RoutingRecord`).
        """
        path, whole_path = list(segments), list(full_path)
        tokens = int(self.tokens[path].sum())

        def summed(name: str, factor: float | NDArray[np.float64] = 1.0) -> NDArray[np.float32] | None:
            values = getattr(self, name) if name in arrays else None
            return None if values is None else (values[path].sum(0) * factor).astype(np.float32)

        per_routed = 1.0 / np.maximum(self.routed[path].sum(0), 1)[:, None] if self.routed is not None else 1.0
        counts = summed("counts")
        return RoutingRecord(
            tokens=tokens,
            counts=counts if counts is None else counts.astype(np.int32),
            gate_mass=summed("gate_mass"),
            importance=summed("importance", per_routed),
            importance_dense=summed("importance_dense", 1.0 / max(tokens, 1)),
            overlap=self._overlap(path) if "overlap" in arrays else None,
            targeted=self.targeted[whole_path].sum(0).astype(np.int64),
            hit=self.hit[whole_path].sum(0).astype(np.int64),
            changed=self.changed[whole_path].sum(0).astype(np.int64),
            thinking=thinking,
        )

    def _overlap(self, path: Sequence[int]) -> NDArray[np.float32] | None:
        if self.pairs_inside is None or self.pairs_before is None:
            return None
        pairs = self.pairs_inside[path].sum(0) + self.pairs_before[path[1:]].sum(0)
        count = int(np.maximum(self.tokens[path] - 1, 0).sum() + self.joined[path[1:]].sum())
        overlap: NDArray[np.float32] = (pairs / count if count else np.full_like(pairs, np.nan)).astype(np.float32)
        return overlap
