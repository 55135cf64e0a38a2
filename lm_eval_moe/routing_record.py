"""What is remembered of the routing of one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

__all__ = ["ARRAYS", "SPANS", "RoutingRecord", "Span"]

Span = Literal["prompt", "thinking", "continuation", "all"]
SPANS: tuple[Span, ...] = get_args(Span)
"""The spans, in their order in a sequence: ``thinking`` is what is generated up to and including the end of thinking,
``continuation`` the scored answer."""

ARRAYS = ("counts", "gate_mass", "importance", "importance_dense", "overlap")
"""The optional arrays of a record, by name."""


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
                overlaps = np.where(pairs[:, None] > 0, np.stack(values), 0.0)
                mean = pairs @ overlaps / pairs.sum() if pairs.any() else np.full_like(values[0], np.nan)
                pooled[field.name] = mean.astype(np.float32)
            elif field.name in ("importance", "importance_dense"):
                mean = np.tensordot(shares, np.stack(values), axes=1)
                total = mean.sum(-1, keepdims=True)  # below 1 where all tokens of a pass skip the routed experts
                pooled[field.name] = (mean / np.where(total > 0, total, 1)).astype(np.float32)
            else:
                pooled[field.name] = np.sum(values, axis=0)
        return RoutingRecord(**pooled)  # type: ignore[arg-type]
