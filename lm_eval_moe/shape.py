"""The shape of a model's routing: what a steering file is checked against, before any weights are loaded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BANDS", "RoutingShape", "format_ranges"]

BANDS = ("early", "middle", "late")


@dataclass(frozen=True)
class RoutingShape:
    """Where a model routes, and among how many experts.

    Attributes:
        layers: Decoder-layer indices of the layers that have a router, ascending. A model whose first layers are
            dense has no entry for those.
        experts: Routed experts per layer, E. Shared, always-on experts are not counted.
        top_k: Experts selected per token, K.
        depth: Decoder layers in all, dense ones included.
    """

    layers: tuple[int, ...]
    experts: int
    top_k: int
    depth: int

    def band(self, name: str) -> tuple[int, ...]:
        """Return the MoE layers of ``early``, ``middle`` or ``late``, or ``all`` of them.

        The split lies at 1/6 and 3/4 of the depth (48 layers: 0-7, 8-35, 36-47). A band can be empty in a model of
        very few layers.
        """
        if name == "all":
            return self.layers
        if name not in BANDS:
            raise ValueError(f"no layer band {name!r}: early, middle, late or all")
        bands = {layer: BANDS[(6 * layer >= self.depth) + (4 * layer >= 3 * self.depth)] for layer in self.layers}
        return tuple(layer for layer, band in bands.items() if band == name)

    def __str__(self) -> str:
        return f"layers {format_ranges(self.layers)} of {self.depth}, {self.experts} experts, top {self.top_k}"

    def parts(self) -> dict[str, str | int]:
        """Return the sizes by their names in words, for messages that compare two shapes."""
        return {
            "MoE layers": format_ranges(self.layers),
            "decoder layers": self.depth,
            "experts": self.experts,
            "top-k": self.top_k,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the shape as JSON-ready values, with its bands."""
        return {
            **asdict(self),
            "layers": list(self.layers),
            "bands": {name: list(self.band(name)) for name in BANDS},
        }


def format_ranges(numbers: Iterable[int]) -> str:
    """Write ascending integers as ``0-7, 12``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in ranges) or "none"
