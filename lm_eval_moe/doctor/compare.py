"""Compare the logits of two runs of the same batches, bit by bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.doctor.runs import ScoringRun

__all__ = ["Comparison", "compare_logits", "same_bits"]


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        logits: How many were compared, padding included; or scores, where there are no logits to see.
        different: How many differ in some bit.
        largest: The largest difference.
    """

    logits: int
    different: int
    largest: float

    @property
    def identical(self) -> bool:
        """Whether every bit is the same."""
        return self.different == 0


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same in every bit: NaN equals itself, 0.0 is not -0.0."""
    return one.shape == other.shape and bool((_bits(one) == _bits(other)).all())


def compare_logits(one: ScoringRun, other: ScoringRun) -> Comparison:
    """Compare all logits of two runs; where there are none to see, what the continuations scored."""
    total = different = 0
    largest = 0.0
    if not one.passes and not other.passes:
        pairs = [(a, b) for (a, _), (b, _) in zip(one.answers, other.answers, strict=True)]
        differences = [abs(a - b) for a, b in pairs if a != b]
        return Comparison(len(pairs), len(differences), max(differences, default=0.0))
    if len(one.passes) != len(other.passes):
        raise ValueError(f"runs of {len(one.passes)} and {len(other.passes)} batches cannot be compared")
    for first, second in zip(one.passes, other.passes, strict=True):
        a, b = first.logits, second.logits
        assert a is not None
        assert b is not None
        total += a.numel()
        if a.shape != b.shape or first.tokens is None or (first.tokens != second.tokens).any():
            raise ValueError("runs of different batches cannot be compared")
        if not same_bits(a, b):
            different += int((_bits(a) != _bits(b)).any(-1).sum())
            largest = max(largest, float((a.double() - b.double()).abs().nan_to_num(float("inf")).max()))
    return Comparison(total, different, largest)


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().unsqueeze(-1).view(torch.uint8)
