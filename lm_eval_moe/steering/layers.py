"""Layers as a steering file writes them: ``8-35``, ``12``, ``[8, 10-12]``, ``all``, ``early``, ``middle``, ``late``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lm_eval_moe.errors import did_you_mean
from lm_eval_moe.shape import BANDS, RoutingShape, format_ranges
from lm_eval_moe.yaml_values import YamlPlace, YamlValue, show

if TYPE_CHECKING:
    from typing import Self

__all__ = ["LayerExpression", "LayerPart"]

NAMES = ("all", *BANDS)
_RANGE = re.compile(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?")
_FIX = f"write a layer (12), a range with both ends included (8-35), a list of these, or one of {', '.join(NAMES)}"


@dataclass(frozen=True, order=True)
class LayerPart:
    """One layer, range or name.

    Attributes:
        first: First decoder-layer index; -1 for a name.
        last: Last index, included; -1 for a name.
        name: ``all``, ``early``, ``middle``, ``late``, or nothing.
    """

    first: int = -1
    last: int = -1
    name: str = ""

    @classmethod
    def parse(cls, field: YamlValue) -> Self:
        """Read a part.

        Raises:
            UserError: It is none of the allowed forms, or a range runs backwards.
        """
        value = field.value
        if isinstance(value, str) and value in NAMES:
            return cls(name=value)
        text = value if isinstance(value, str) else show(value)
        match = None if isinstance(value, bool) else _RANGE.fullmatch(text)
        if not match:
            hint = did_you_mean(value, NAMES) if isinstance(value, str) else ""
            raise field.error(f"{show(value)} does not name layers{hint}", _FIX)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise field.error(f"the range {text!r} runs backwards", f"write {last}-{first}")
        return cls(first, last)

    def dump(self) -> str | int:
        """Return the part as YAML holds it."""
        if self.name:
            return self.name
        return self.first if self.first == self.last else f"{self.first}-{self.last}"

    def resolve(self, shape: RoutingShape, place: YamlPlace) -> tuple[int, ...]:
        """Return the decoder-layer indices, ascending.

        Raises:
            UserError: A layer is not an MoE layer of the model, or a band of this small model is empty.
        """
        fix = (
            f"choose among its MoE layers {format_ranges(shape.layers)} ({shape.depth} decoder layers, counted from 0)"
        )
        if self.name:
            layers = shape.band(self.name)
            if not layers:
                raise place.error(f"this model has no {self.name} layers", fix)
            return layers
        if self.last >= shape.depth:
            raise place.error(f"layer {self.last} lies beyond the model's last layer, {shape.depth - 1}", fix)
        layers = tuple(range(self.first, self.last + 1))
        dense = [layer for layer in layers if layer not in shape.layers]
        if dense:
            verb = "is not an MoE layer" if len(dense) == 1 else "are not MoE layers"
            raise place.error(f"{format_ranges(dense)} {verb} of this model", fix)
        return layers


@dataclass(frozen=True)
class LayerExpression:
    """All that stands under ``layers``."""

    parts: tuple[LayerPart, ...]

    @classmethod
    def parse(cls, field: YamlValue) -> Self:
        """Read a part or a list of parts.

        Raises:
            UserError: The list is empty, or a part is none of the allowed forms.
        """
        if isinstance(field.value, list | tuple):
            parts = tuple(LayerPart.parse(item) for item in field.items("[8, 10-12]"))
            if not parts:
                raise field.error("the list of layers is empty", _FIX)
            return cls(parts)
        return cls((LayerPart.parse(field),))

    def dump(self) -> str | int | list[str | int]:
        """Return the expression as YAML holds it."""
        parts = [part.dump() for part in self.parts]
        return parts[0] if len(parts) == 1 else parts

    def resolve(self, shape: RoutingShape, place: YamlPlace) -> tuple[int, ...]:
        """Return the decoder-layer indices, ascending, each once."""
        if len(self.parts) == 1:
            return self.parts[0].resolve(shape, place)
        layers_by_part = (part.resolve(shape, place / index) for index, part in enumerate(self.parts))
        return tuple(sorted({layer for layers in layers_by_part for layer in layers}))
