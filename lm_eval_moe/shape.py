"""The shape of a model's routing: what a steering file is checked against, before any weights are loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BANDS", "RoutingShape"]

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
        """Return the MoE layers of ``early``, ``middle`` or ``late``.

        The split lies at 1/6 and 3/4 of the depth (48 layers: 0-7, 8-35, 36-47). A band can be empty in a model of
        very few layers.
        """
        if name == "early":
            return tuple(layer for layer in self.layers if 6 * layer < self.depth)
        if name == "late":
            return tuple(layer for layer in self.layers if 4 * layer >= 3 * self.depth)
        if name == "middle":
            return tuple(layer for layer in self.layers if 6 * layer >= self.depth and 4 * layer < 3 * self.depth)
        raise ValueError(f"no layer band {name!r}: early, middle or late")

    def to_dict(self) -> dict[str, Any]:
        """Return the shape as JSON-ready values, with its bands."""
        return {
            **asdict(self),
            "layers": list(self.layers),
            "bands": {name: list(self.band(name)) for name in BANDS},
        }
