"""What all selection rules share: the registry, and what they select from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.steering._fields import Field, Place

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Scope", "Selection", "Selector", "parse_selector"]

Selection = dict[int, dict[int, float]]
"""Decoder-layer index → expert → steering coefficient s_k."""


@dataclass(frozen=True)
class Scope:
    """What a rule selects from.

    Attributes:
        layers: The layers of the intervention, decoder-layer indices, ascending.
        shape: The model's routing shape.
        seed: The steering file's seed.
        place: Where the rule stands in the file.
    """

    layers: tuple[int, ...]
    shape: RoutingShape
    seed: int
    place: Place

    def below(self, *keys: object) -> Scope:
        """Return the same scope for a rule that stands below this one."""
        place = self.place
        for key in keys:
            place = place / key
        return replace(self, place=place)


class Selector(ABC):
    """A selection rule. Subclasses are frozen dataclasses; having a ``name`` registers them."""

    name: ClassVar[str]
    registry: ClassVar[dict[str, type[Selector]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in cls.__dict__:
            Selector.registry[cls.name] = cls

    @classmethod
    @abstractmethod
    def parse(cls, field: Field) -> Self:
        """Read the rule's fields.

        Raises:
            UserError: One of them is missing, unknown or wrong.
        """

    @abstractmethod
    def dump(self) -> dict[str, Any]:
        """Return the rule's fields as YAML holds them, without its name."""

    @abstractmethod
    def select(self, scope: Scope) -> Selection:
        """Return the targeted experts of every layer that has any.

        Raises:
            UserError: The rule cannot be applied to this model.
        """


def parse_selector(field: Field, *, besides: Sequence[str] = ()) -> Selector:
    """Read ``{ids: …}``, ``{random: …}`` or any other rule.

    Args:
        field: A mapping of one key.
        besides: Rules that may not stand here.

    Raises:
        UserError: There is none, more than one or an unknown rule, or its fields are wrong.
    """
    options = sorted(set(Selector.registry) - set(besides))
    name, value = field.variant(options, "selection rule", bare=False)
    return Selector.registry[name].parse(value)
