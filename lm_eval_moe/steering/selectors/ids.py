"""``ids``: the experts as an explicit list, with steering coefficients if wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.shape import format_ranges
from lm_eval_moe.steering.layers import LayerPart
from lm_eval_moe.steering.overrides import key_of
from lm_eval_moe.steering.selectors._base import Choice, Scope, Selector
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Ids"]

MAX_EXPERTS = 1_000_000
_MAX_COEFFICIENT = 1e6
_LIKE = "{8: [3, 17]}, or {8: {3: 0.41}} with steering coefficients"


@dataclass(frozen=True)
class Ids(Selector):
    """Experts per layer.

    Attributes:
        entries: For every key the layers it names, and (expert, coefficient); both ascending. As a key, ``all`` is
            every layer of the intervention.
    """

    name = "ids"
    entries: tuple[tuple[LayerPart, tuple[tuple[int, float], ...]], ...]

    @classmethod
    def parse(cls, field: YamlValue) -> Self:
        """Read ``{8: [3, 17], 9-11: {0: 0.41}}``."""
        entries: dict[LayerPart, tuple[tuple[int, float], ...]] = {}
        for key, value in field.mapping(_LIKE).items():
            part = LayerPart.parse(YamlValue(value.place, key))
            if part in entries:
                raise value.error(f"layers {part.dump()} are given twice", "give them once")
            entries[part] = tuple(sorted(_experts(value).items()))
        if not any(entries.values()):
            raise field.error("no experts are given", f"write for example {_LIKE}")
        return cls(tuple(sorted(entries.items())))

    def dump(self) -> dict[str, Any]:
        """Return lists, or mappings where a coefficient is not 1."""
        dumped: dict[str, Any] = {}
        for layers, experts in self.entries:
            if all(coefficient == 1 for _, coefficient in experts):
                dumped[str(layers.dump())] = [expert for expert, _ in experts]
            else:
                dumped[str(layers.dump())] = {str(expert): coefficient for expert, coefficient in experts}
        return dumped

    def weighted_at(self) -> tuple[str, ...] | None:
        """Return the layers and the expert of the first coefficient other than 1."""
        return next(
            ((str(part.dump()), str(e)) for part, experts in self.entries for e, weight in experts if weight != 1), None
        )

    def explain(self, scope: Scope) -> list[Choice]:
        """Return the experts listed."""
        owner: dict[int, str] = {}
        choices: list[Choice] = []
        for part, experts in self.entries:
            key = str(part.dump())
            place = scope.place / key
            layers = scope.layers if part.name == "all" else part.resolve(scope.shape, place)
            outside = [layer for layer in layers if layer not in scope.layers]
            if outside:
                raise place.error(
                    f"the intervention's `layers` do not include {format_ranges(outside)}",
                    f"its layers are {format_ranges(scope.layers)}: leave these ids out or widen `layers`",
                )
            for layer in layers:
                if layer in owner:
                    raise place.error(
                        f"layer {layer} is already covered by the key {owner[layer]!r}",
                        "name every layer under one key",
                    )
                owner[layer] = key
            too_high = [expert for expert, _ in experts if expert >= scope.shape.experts]
            if too_high:
                raise place.error(
                    f"there is no expert {format_ranges(too_high)}",
                    f"this model's layers have {scope.shape.experts} experts, 0-{scope.shape.experts - 1}",
                )
            choices += [
                Choice(layer, expert, coefficient, f"listed under {key}")
                for layer in layers
                for expert, coefficient in experts
            ]
        return sorted(choices, key=lambda choice: (choice.layer, choice.expert))


def _experts(field: YamlValue) -> dict[int, float]:
    """Read ``[3, 17]`` or ``{3: 0.41}`` into expert → coefficient."""
    experts: dict[int, float] = {}
    if isinstance(field.value, Mapping):
        entries = [(_expert(key, value.place), value) for key, value in field.mapping(_LIKE).items()]
    else:
        entries = [(item.integer(0, MAX_EXPERTS), item) for item in field.items(_LIKE)]
    for expert, value in entries:
        if expert in experts:
            raise value.error(f"expert {expert} is given twice", "give it once")
        weighted = isinstance(field.value, Mapping)
        experts[expert] = value.number(-_MAX_COEFFICIENT, _MAX_COEFFICIENT) if weighted else 1.0
    return experts


def _expert(key: object, place: YamlPlace) -> int:
    """Read an expert that is a mapping's key: JSON has strings there."""
    return YamlValue(place, key_of(key) if isinstance(key, str) else key).integer(0, MAX_EXPERTS)
