"""The memory of block sums: what is summed for every KV block has to fit next to the KV cache.

vLLM gives its cache all the memory that the model leaves. Every block that is in the prefix cache has its own sums,
so that as many blocks fewer have to do.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["ASSUMED", "left_for_blocks", "segment_bytes"]

ASSUMED = ("counts", "gate_mass", "importance")
"""The arrays that are reckoned with where nobody says which will be captured: of two of them, one may be growing."""

_SEGMENTS_PER_BLOCK = 1.25  # where a prompt ends or a request is cut, a block has more than one
_BYTES = 8
_BY_EXPERT = ("counts", "gate_mass", "importance", "importance_dense")
_BY_LAYER = {"importance": 1, "overlap": 2}  # tokens with a weight; pairs inside and over the seam
_STEERED = 3  # targeted, hit, changed


def segment_bytes(layers: int, experts: int, arrays: Collection[str] = ASSUMED) -> int:
    """Return how many bytes the sums of a segment take.

    Args:
        layers: MoE layers.
        experts: Routed experts of each.
        arrays: What is summed.
    """
    numbers = sum(experts for name in arrays if name in _BY_EXPERT) + sum(_BY_LAYER.get(name, 0) for name in arrays)
    return _BYTES * layers * (numbers + _STEERED)


def left_for_blocks(available: int, *, block: int, segment: int, reserved: int = 0) -> int:
    """Return how many bytes the KV cache may take, so that the sums of its blocks fit next to it.

    Args:
        available: Bytes for both.
        block: Bytes of a KV block, all layers.
        segment: Bytes of the sums of a segment.
        reserved: Segments besides those of blocks: the tokens of running answers that are held apart.
    """
    shared = max(available - reserved * segment, 0)
    return int(shared * block / (block + _SEGMENTS_PER_BLOCK * segment))
