"""What all selection rules share: the registry, their fields, what they select from, and what they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lm_eval_moe.discovery import Registry
from lm_eval_moe.profiles import ProfileStore
from lm_eval_moe.shape import RoutingShape
from lm_eval_moe.yaml_values import YamlPlace, YamlValue

if TYPE_CHECKING:
    from typing import Self

__all__ = ["MISSING", "Choice", "ComparedNumber", "Flag", "Option", "Scope", "Selector", "parse_selector"]

MISSING = object()
"""The default of a field that has to be given."""

Flag = Literal["text", "number", "pairs", "list"]


@dataclass(frozen=True)
class Option:
    """One field of a rule.

    Attributes:
        help: What it means, in a few words.
        metavar: What its value is, in the help of its flag.
        read: From the value in the file, and the attributes before this one, to the rule's attribute.
        write: Back to what YAML holds.
        default: The value where the file has none: what the file would hold, None for an attribute of None, or
            `MISSING`.
        flag: What the command line takes: text, a number, ``LANG=FILE`` several times, or a list of languages.
        brief: Whether it stands in short titles, as sizes and thresholds do.
    """

    help: str
    metavar: str
    read: Callable[[YamlValue, Mapping[str, Any]], Any]
    write: Callable[[Any], Any]
    default: Any
    flag: Flag
    brief: bool


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
    place: YamlPlace
    profiles: ProfileStore = field(compare=False, repr=False)

    @property
    def rows(self) -> list[int]:
        """Where the layers stand among the model's MoE layers: the rows of ``[L, E]`` arrays."""
        return [self.shape.layers.index(layer) for layer in self.layers]


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


@dataclass(frozen=True)
class ComparedNumber:
    """The number that a rule compares with its threshold.

    Attributes:
        values: ``[layers, E]``; NaN where the rule leaves an expert out of the question.
        label: What the number is.
        signed: Whether it is a difference, around 0, or a share from 0 to 1.
    """

    values: NDArray[np.float64]
    label: str
    signed: bool


class Selector(ABC):
    """A selection rule. Subclasses are frozen dataclasses; having a ``name`` registers them.

    What is declared as a field with `lm_eval_moe.steering.selectors.options` is read, written, checked, and offered as
    a flag by what stands here; a rule of another form has its own `parse` and `dump`.

    Attributes:
        name: What the rule is called in a steering file.
        citation: The paper that it is from, for the ``source`` of a steering file.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""
    registry: ClassVar[Registry[type[Selector]]] = Registry("selection rule")

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in cls.__dict__:
            Selector.registry.add(cls.name, cls, cls)

    @classmethod
    def declared(cls) -> dict[str, Option]:
        """Return the declared fields, by name."""
        declared = fields(cls)  # type: ignore[arg-type]
        return {field.name: field.metadata["option"] for field in declared if "option" in field.metadata}

    @classmethod
    def parse(cls, field: YamlValue) -> Self:
        """Read the rule's fields.

        Raises:
            UserError: One of them is missing, unknown or wrong.
        """
        options = cls.declared()
        required = [name for name, option in options.items() if option.default is MISSING]
        entries = field.keys(required, [name for name in options if name not in required])
        values: dict[str, Any] = {}
        for name, option in options.items():
            value = entries.get(name, YamlValue(field / name, option.default))
            values[name] = option.read(value, values) if name in entries or option.default is not None else None
        return cls(**values)

    def dump(self) -> dict[str, Any]:
        """Return the rule's fields as YAML holds them, without its name."""
        values = {name: (option, getattr(self, name)) for name, option in self.declared().items()}
        return {name: option.write(value) for name, (option, value) in values.items() if value is not None}

    @property
    def matched(self) -> Selector:
        """The rule that compares something: of a random control the one that it matches."""
        return self

    @abstractmethod
    def explain(self, scope: Scope) -> list[Choice]:
        """Return the targeted experts, each once, with the reason; by layer and expert, ascending.

        Raises:
            UserError: The rule cannot be applied to this model, or selects nothing.
        """

    def compare(self, scope: Scope) -> ComparedNumber | None:
        """Return what the rule compares, for every expert and not only the chosen ones; None where it compares nothing.

        Raises:
            UserError: The rule cannot be applied to this model.
        """
        return None

    def weighted_at(self) -> tuple[str, ...] | None:
        """Return the keys below the rule at which a coefficient other than 1 is written by hand; None without one."""
        return None


def parse_selector(field: YamlValue, *, besides: Sequence[str] = ()) -> Selector:
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
