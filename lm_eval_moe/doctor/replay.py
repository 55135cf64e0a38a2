"""Keep how a module was called in a forward pass, and call it again by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Call", "noted_calls", "rows_of"]

_Place = int | str


@dataclass(frozen=True)
class Call:
    """One call of a module, N tokens.

    Attributes:
        module: The module.
        args: Its arguments by place.
        kwargs: Its arguments by name.
        output: What it returned, as rows ``[N, H]``.
    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor

    @property
    def arguments(self) -> dict[_Place, Any]:
        """All arguments, by place or name."""
        return dict([*enumerate(self.args), *self.kwargs.items()])

    @property
    def hidden(self) -> Tensor | None:
        """The hidden states ``[N, H]`` that it got: its first floating-point argument of two dimensions or more."""
        return rows_of(list(self.arguments.values()))

    @property
    def selection(self) -> tuple[_Place, _Place] | None:
        """Where indices and weights ``[N, K]`` are among the arguments, recognised by their form; None if nowhere."""
        values = self.arguments
        flat = {place: v for place, v in values.items() if isinstance(v, torch.Tensor) and v.dim() == 2}
        indices = [place for place, v in flat.items() if not v.is_floating_point() and v.dtype != torch.bool]
        hidden = self.hidden
        if len(indices) != 1 or hidden is None or len(flat[indices[0]]) != len(hidden):
            return None
        shape = flat[indices[0]].shape
        weights = [place for place, v in flat.items() if v.is_floating_point() and v.shape == shape]
        return (indices[0], weights[0]) if len(weights) == 1 else None

    def again(self, replacements: Mapping[_Place, Any] | None = None) -> Tensor:
        """Call the module again and return its output as rows ``[N, H]``.

        Args:
            replacements: Arguments to put in the place of those that it had.
        """
        replacements = replacements or {}
        args = [_copy(replacements.get(place, value)) for place, value in enumerate(self.args)]
        kwargs = {name: _copy(replacements.get(name, value)) for name, value in self.kwargs.items()}
        output = rows_of(self.module(*args, **kwargs))
        assert output is not None, "it returned a tensor before"
        return output


@contextmanager
def noted_calls(modules: Mapping[Any, nn.Module]) -> Iterator[dict[Any, list[Call]]]:
    """Note, by key, how modules are called inside the ``with`` block, and what they return."""
    calls: dict[Any, list[Call]] = {key: [] for key in modules}
    before: dict[Any, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def entered(key: Any) -> Any:
        def enter(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Copies, since a block may change its input in place.
            before[key] = tuple(map(_copy, args)), {name: _copy(value) for name, value in kwargs.items()}

        return enter

    def left(key: Any) -> Any:
        def leave(module: nn.Module, _: Any, output: Any) -> None:
            rows = rows_of(output)
            if rows is not None:
                calls[key].append(Call(module, *before.pop(key), rows.clone()))

        return leave

    handles = [module.register_forward_pre_hook(entered(key), with_kwargs=True) for key, module in modules.items()]
    handles += [module.register_forward_hook(left(key)) for key, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def rows_of(value: Any) -> Tensor | None:
    """Return a tensor, or the first floating-point one of several, as rows ``[N, H]``."""
    values = value if isinstance(value, (tuple, list)) else [value]
    for one in values:
        if isinstance(one, torch.Tensor) and one.is_floating_point() and one.dim() >= 2:
            return one.detach().reshape(-1, one.shape[-1])
    return None


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
