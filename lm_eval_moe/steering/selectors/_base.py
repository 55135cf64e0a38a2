"""What all selection rules share: the registry, what they select from, and what they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lm_eval_moe.checked_fields import Field, Place
from lm_eval_moe.profiles import ProfileStore
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Choice", "Scope", "Selection", "Selector", "parse_selector"]

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
        profiles: Reads profiles; rules that share it share what has been read.
    """

    layers: tuple[int, ...]
    shape: RoutingShape
    seed: int
    place: Place
    profiles: ProfileStore = field(compare=False, repr=False)

    @property
    def rows(self) -> list[int]:
        """Where the layers stand among the model's MoE layers: the rows of ``[L, E]`` arrays."""
        return [self.shape.layers.index(layer) for layer in self.layers]

    def below(self, *keys: object) -> Scope:
        """Return the same scope for a rule that stands below this one."""
        place = self.place
        for key in keys:
            place = place / key
        return replace(self, place=place)


@dataclass(frozen=True)
class Choice:
    """One targeted expert, and why it is one.

    Attributes:
        layer: Decoder-layer index.
        expert: Its index.
        coefficient: Its steering coefficient s_k.
        why: The reason in a few words.
        values: The numbers that the rule compared, by what they are; the same names for every choice of a rule.
    """

    layer: int
    expert: int
    coefficient: float = 1.0
    why: str = ""
    values: Mapping[str, float] = field(default_factory=dict)


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
    def explain(self, scope: Scope) -> list[Choice]:
        """Return the targeted experts, each once, with the reason; by layer and expert, ascending.

        Raises:
            UserError: The rule cannot be applied to this model, or selects nothing.
        """

    def weighted_at(self) -> tuple[str, ...] | None:
        """Return the keys below the rule at which a coefficient other than 1 is written by hand; None without one."""
        return None

    def select(self, scope: Scope) -> Selection:
        """Return the targeted experts of every layer that has any: what :meth:`explain` explains.

        Raises:
            UserError: As :meth:`explain`.
        """
        selection: Selection = {}
        for choice in self.explain(scope):
            selection.setdefault(choice.layer, {})[choice.expert] = choice.coefficient
        return selection


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
