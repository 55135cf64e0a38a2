"""What is remembered of the routing of one request."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["ARRAYS", "SPANS", "RoutingRecord", "SegmentSums", "Span"]

Span = Literal["prompt", "thinking", "continuation", "all"]
SPANS: tuple[Span, ...] = get_args(Span)
"""The spans, in their order in a sequence: ``thinking`` is what is generated up to and including the end of thinking,
``continuation`` the scored answer."""

ARRAYS = ("counts", "gate_mass", "importance", "importance_dense", "overlap")
"""The optional arrays of a record, by name."""


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

    def take(
        self, segments: Sequence[int], whole: Sequence[int], arrays: Collection[str], thinking: int | None = None
    ) -> RoutingRecord:
        """Return the record of consecutive segments, by their place in the path; only ``arrays`` are kept.

        What steering did is reported for the ``whole`` sequence, whatever span the routing is compared on; so is
        ``thinking`` (see `RoutingRecord`).
        """
        chosen, own = list(segments), list(whole)
        tokens = int(self.tokens[chosen].sum())

        def summed(name: str, factor: float | NDArray[np.float64] = 1.0) -> NDArray[np.float32] | None:
            values = getattr(self, name)
            return (
                (values[chosen].sum(0) * factor).astype(np.float32) if name in arrays and values is not None else None
            )

        per_routed = 1.0 / np.maximum(self.routed[chosen].sum(0), 1)[:, None] if self.routed is not None else 1.0
        counts = summed("counts")
        return RoutingRecord(
            tokens=tokens,
            counts=counts if counts is None else counts.astype(np.int32),
            gate_mass=summed("gate_mass"),
            importance=summed("importance", per_routed),
            importance_dense=summed("importance_dense", 1.0 / max(tokens, 1)),
            overlap=self._overlap(chosen) if "overlap" in arrays else None,
            targeted=self.targeted[own].sum(0).astype(np.int64),
            hit=self.hit[own].sum(0).astype(np.int64),
            changed=self.changed[own].sum(0).astype(np.int64),
            thinking=thinking,
        )

    def _overlap(self, chosen: Sequence[int]) -> NDArray[np.float32] | None:
        if self.pairs_inside is None or self.pairs_before is None:
            return None
        pairs = self.pairs_inside[chosen].sum(0) + self.pairs_before[chosen[1:]].sum(0)
        count = int(np.maximum(self.tokens[chosen] - 1, 0).sum() + self.joined[chosen[1:]].sum())
        overlap: NDArray[np.float32] = (pairs / count if count else np.full_like(pairs, np.nan)).astype(np.float32)
        return overlap


@dataclass(frozen=True, slots=True)
class RoutingRecord:
    """The routing of one request over one span (L layers, E experts); see methods, section 1.

    Attributes:
        tokens: Valid tokens, T. Padding and what follows a stop is never counted.
        counts: ``[L, E]`` activation count of each expert.
        gate_mass: ``[L, E]`` sum of combine weights as the experts received them.
        importance: ``[L, E]`` mean combine weight, renormalised to sum 1 over each token's selected experts. Tokens
            without any weight (some models let them skip the experts; masks can leave none) do not enter.
        importance_dense: ``[L, E]`` mean of the router's distribution over all experts.
        overlap: ``[L]`` mean Jaccard overlap of the expert sets of consecutive tokens; NaN for a single token.
        targeted: ``[L]`` tokens at which an intervention was in force.
        hit: ``[L]`` those of them at which at least one targeted expert was selected.
        changed: ``[L]`` those of them at which the selection differs from that without steering (counted only when
            asked for).
        pairs: Pairs of consecutive tokens that ``overlap`` is the mean of; None for one unbroken sequence, whose pairs
            are one less than its tokens.
        thinking: Tokens generated up to and including the end of thinking, whatever the span; 0 where the thinking
            never ended, None where there was none to end (scored texts, a model without ``think_end_token``) and in
            pools of several records.
    """

    tokens: int
    counts: NDArray[np.int32] | None
    gate_mass: NDArray[np.float32] | None
    importance: NDArray[np.float32] | None
    importance_dense: NDArray[np.float32] | None
    overlap: NDArray[np.float32] | None
    targeted: NDArray[np.int64]
    hit: NDArray[np.int64]
    changed: NDArray[np.int64]
    pairs: int | None = None
    thinking: int | None = None

    @property
    def consecutive(self) -> int:
        """Pairs of consecutive tokens."""
        return max(self.tokens - 1, 0) if self.pairs is None else self.pairs

    @staticmethod
    def pooled(records: Sequence[RoutingRecord]) -> RoutingRecord:
        """Pool the records of several passes over one document (windows, repeats), weighted by their tokens."""
        if len(records) == 1:
            return records[0]
        tokens = sum(record.tokens for record in records)
        shares = np.array([record.tokens / max(tokens, 1) for record in records])
        pairs = np.array([record.consecutive for record in records])
        pooled: dict[str, object] = {"tokens": tokens, "pairs": int(pairs.sum())}
        for field in fields(RoutingRecord):
            if field.name in ("tokens", "pairs", "thinking"):
                continue
            values = [getattr(record, field.name) for record in records]
            if values[0] is None:
                pooled[field.name] = None
            elif field.name == "overlap":  # a mean over pairs of tokens; a single token has none
                known = np.where(pairs[:, None] > 0, np.stack(values), 0.0)
                mean = pairs @ known / pairs.sum() if pairs.any() else np.full_like(values[0], np.nan)
                pooled[field.name] = mean.astype(np.float32)
            elif field.name in ("importance", "importance_dense"):
                mean = np.tensordot(shares, np.stack(values), axes=1)
                total = mean.sum(-1, keepdims=True)  # below 1 where all tokens of a pass skip the routed experts
                pooled[field.name] = (mean / np.where(total > 0, total, 1)).astype(np.float32)
            else:
                pooled[field.name] = np.sum(values, axis=0)
        return RoutingRecord(**pooled)  # type: ignore[arg-type]
