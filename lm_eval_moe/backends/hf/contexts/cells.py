"""Several plans in one pass: the layers below the first steered one run once, those above it once for each plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lm_eval_moe.routers import RouterListener, RouterSite

if TYPE_CHECKING:
    from lm_eval_moe.backends.passes import RoutedPasses
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["Copies", "SplitListener", "decoder_layers", "fanned_out", "first_steered"]


def first_steered(plans: Sequence[SteeringPlan | None], sites: Sequence[RouterSite]) -> int:
    """Return the first router, by place, that any of the plans steers; behind the last one if there is none."""
    steered = {layer for plan in plans if plan for intervention in plan.interventions for layer in intervention.targets}
    return next((place for place, site in enumerate(sites) if site.layer in steered), len(sites))


def decoder_layers(model: nn.Module, sites: Sequence[RouterSite]) -> Sequence[nn.Module] | None:
    """Return the model's decoder layers in order, None if they are not found where its routers are."""
    parts = sites[0].path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        layers = model.get_submodule(".".join(parts[:length]))
        if isinstance(layers, nn.ModuleList) and len(layers) == sites[0].depth:
            return list(layers)
    return None


@dataclass(frozen=True)
class Copies:
    """What becomes of each row of a batch.

    Attributes:
        count: As how many it continues, C: row b of copy c is row ``c * B + b`` then.
        layers: The decoder layers that see copies, in order; None: all of the model does.
    """

    count: int = 1
    layers: Sequence[nn.Module] | None = None

    @property
    def given_count(self) -> int:
        """How many copies of a batch the model is given."""
        return self.count if self.layers is None else 1


@contextmanager
def fanned_out(copies: Copies, rows: int) -> Iterator[None]:
    """Let the rows of a batch of B become copies where they should, inside the ``with`` block."""

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            shared = value.dim() < 2 or len(value) != rows
            return value if shared else value.repeat(copies.count, *[1] * (value.dim() - 1))
        return tuple(map(copied, value)) if isinstance(value, tuple) else value

    def first(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return copied(args), {name: copied(value) for name, value in kwargs.items()}

    def later(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # Hidden states are copies by now; masks and positions are those of the batch.
        names = [name for name in kwargs if args or name != "hidden_states"]
        return (*args[:1], *copied(args[1:])), {**kwargs, **{name: copied(kwargs[name]) for name in names}}

    with ExitStack() as stack:
        for place, layer in enumerate(copies.layers or ()):
            hook = layer.register_forward_pre_hook(later if place else first, with_kwargs=True)
            stack.callback(hook.remove)
        yield


class SplitListener(RouterListener):
    """Routers below a place are heard by one listener, those from it on by another.

    Args:
        below: For routers below the place.
        above: For the others.
        place: The first router of those.
    """

    def __init__(self, below: RoutedPasses, above: RoutedPasses, place: int) -> None:
        self._below, self._above, self._place = below, above, place

    def _of(self, position: int) -> RoutedPasses:
        return self._above if position >= self._place else self._below

    def route(self, position: int, logits: Tensor) -> Tensor:
        """Let the position's listener steer the logits."""
        return self._of(position).route(position, logits)

    def selected(self, position: int, indices: Tensor, weights: Tensor) -> None:
        """Tell the position's listener of the selection."""
        self._of(position).selected(position, indices, weights)

    def guarded(self, position: int, logits: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what the position's listener forces and bans."""
        return self._of(position).guarded(position, logits)

    def compares(self, position: int) -> bool:
        """Return whether the position's listener compares."""
        return self._of(position).compares(position)

    def unchanged(self, position: int, indices: Tensor) -> None:
        """Tell the position's listener of the selection without steering."""
        self._of(position).unchanged(position, indices)
