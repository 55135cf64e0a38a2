"""What all actions share: the registry, the targets, and statistics that leave masked experts out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lm_eval_moe.discovery import Registry
from lm_eval_moe.yaml_values import YamlValue, show

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

__all__ = [
    "Action",
    "ActionTargets",
    "StrengthAction",
    "SwitchAction",
    "max_logit",
    "min_logit",
    "parse_action",
    "std_logit",
]

MAX_STRENGTH = 1e6


@dataclass(frozen=True)
class ActionTargets:
    """What an action works on, beside the logits.

    Attributes:
        experts: Targeted experts, each once; int64 ``[n]`` on the logits' device.
        coefficients: Steering coefficients s_k; float32 ``[n]``.
        noise: Draws of N(0, 1e-6) (variance); float32 ``[tokens, n]``. For actions that need noise.
        masked: Experts that an earlier ``mask`` took out; bool ``[tokens, E]``. ``None``: nobody.
    """

    experts: Tensor
    coefficients: Tensor
    noise: Tensor | None = None
    masked: Tensor | None = None


class Action(ABC):
    """A change of router logits. Subclasses are frozen dataclasses; having a ``name`` registers them.

    Attributes:
        name: What the action is called in a steering file.
        needs_noise: Whether `ActionTargets` must carry noise.
        masks: Whether the targeted experts can no longer be selected afterwards.
        unmasks: Whether the action brings back experts that an earlier ``mask`` took out. All others leave those as
            they are.
        weighs: Whether the targets' steering coefficients matter.
        guards_by: What ``guard: true`` does to the targeted experts in the final top-k; ``None``: it has no meaning.
    """

    name: ClassVar[str]
    needs_noise: ClassVar[bool] = False
    masks: ClassVar[bool] = False
    unmasks: ClassVar[bool] = False
    weighs: ClassVar[bool] = False
    guards_by: ClassVar[Literal["force", "ban"] | None] = None
    registry: ClassVar[Registry[type[Action]]] = Registry("action")

    @property
    def idle(self) -> bool:
        """Whether it changes no logit, whatever its targets."""
        return False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" in cls.__dict__:
            Action.registry.add(cls.name, cls, cls)

    @classmethod
    @abstractmethod
    def parse(cls, field: YamlValue) -> Self:
        """Read the action's value; ``None`` where the file has only its name."""

    @abstractmethod
    def dump(self) -> str | dict[str, float]:
        """Return the action as YAML holds it."""

    @abstractmethod
    def edit(self, logits: Tensor, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return the new logits of the targeted experts.

        Args:
            logits: Their logits; float32 ``[tokens, n]``.
            z: All logits; float32 ``[tokens, E]``.
            targets: The targets.
        """

    def apply(self, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return new logits, in which the columns of the targeted experts alone may differ.

        Args:
            z: Router logits before any softmax, sigmoid or top-k; float32 ``[tokens, E]``. Left as they are.
            targets: What to work on.

        Raises:
            ValueError: The action needs noise and there is none.
        """
        if self.needs_noise and targets.noise is None:
            raise ValueError(f"the action {self.name!r} needs noise")
        before = z.index_select(1, targets.experts)
        after = self.edit(before, z, targets)
        if targets.masked is not None and not self.unmasks:
            after = before.where(targets.masked.index_select(1, targets.experts), after)
        return z.index_copy(1, targets.experts, after)


class SwitchAction(Action):
    """An action without a strength: ``action: activate``."""

    @classmethod
    def parse(cls, field: YamlValue) -> Self:
        """Check that there is no value."""
        if field.value is not None:
            raise field.error(f"{cls.name!r} takes no value, got {show(field.value)}", f"write `action: {cls.name}`")
        return cls()

    def dump(self) -> str:
        """Return the name."""
        return self.name


@dataclass(frozen=True)
class StrengthAction(Action):
    """An action with a strength: ``action: {soft: 0.5}``. Zero strength changes no bit."""

    strength: float

    @classmethod
    def parse(cls, field: YamlValue) -> Self:
        """Read the strength."""
        if field.value is None:
            raise field.error(f"{cls.name!r} needs a strength", f"write `action: {{{cls.name}: 0.5}}`")
        return cls(field.number(-MAX_STRENGTH, MAX_STRENGTH))

    @property
    def idle(self) -> bool:
        """Whether the strength is zero."""
        return not self.strength

    def dump(self) -> dict[str, float]:
        """Return ``{name: strength}``."""
        return {self.name: self.strength}

    def apply(self, z: Tensor, targets: ActionTargets) -> Tensor:
        """Return new logits; equal to ``z`` in every bit if the strength is zero (adding 0.0 would turn -0.0 over)."""
        return super().apply(z, targets) if self.strength else z.clone()


def parse_action(field: YamlValue) -> Action:
    """Read ``activate`` or ``{soft: 0.5}``.

    Raises:
        UserError: The action is not known, or its strength is not a finite number.
    """
    name, value = field.variant(sorted(Action.registry), "action", bare=True)
    return Action.registry[name].parse(value)


def max_logit(z: Tensor, masked: Tensor | None) -> Tensor:
    """Return each token's largest logit among the experts not masked; ``[tokens, 1]``."""
    return (z if masked is None else z.masked_fill(masked, -math.inf)).amax(dim=1, keepdim=True)


def min_logit(z: Tensor, masked: Tensor | None) -> Tensor:
    """Return each token's smallest logit among the experts not masked; ``[tokens, 1]``."""
    return (z if masked is None else z.masked_fill(masked, math.inf)).amin(dim=1, keepdim=True)


def std_logit(z: Tensor, masked: Tensor | None) -> Tensor:
    """Return the population standard deviation of each token's logits over the experts not masked; ``[tokens, 1]``.

    Whether other tokens of the batch have masked experts makes no difference to a token, not even in the last bit.
    """
    plain = z.var(dim=1, correction=0, keepdim=True)
    if masked is None:
        return plain.sqrt()
    count = (~masked).sum(dim=1, keepdim=True)
    mean = z.masked_fill(masked, 0.0).sum(dim=1, keepdim=True) / count
    among = (z - mean).masked_fill(masked, 0.0).square().sum(dim=1, keepdim=True) / count
    return among.where(masked.any(dim=1, keepdim=True), plain).sqrt()
