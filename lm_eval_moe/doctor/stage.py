"""A block's part where its experts' outputs are combined, called again with one expert muted.

An expert whose parameters are zero for a moment changes the output ``y`` at the tokens that use it, and at no other:
``y - y_without_e = w_e * (f_e - f_e_muted)``. The expert's own part ``f_e - f_e_muted`` is seen alone in one of three
ways, so that the weight ``w_e`` follows. Nothing of this asks the adapter how it reads a selection.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_moe.doctor.replay import Call, rows_of
from lm_eval_moe.routers import intercepted
from lm_eval_moe.routers.selection_listener import SelectionListener

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.routers import RouterSite
    from lm_eval_moe.routers.parts import ExpertParts

__all__ = ["Effect", "RecordedSelection", "Stage"]

_RAISED_LOGIT = 20.0  # against -20 for all others: a softmax of this is one-hot, a sigmoid is 0 or 1


@dataclass(frozen=True)
class RecordedSelection:
    """What the interception recorded in one layer, N tokens and E experts.

    Attributes:
        chosen: ``[N, E]`` whether an expert is in the selection.
        weights: ``[N, E]`` its combine weight, 0 where it is not chosen.
        repeated: How often an expert is named twice for a token.
        outside: How many indices are below 0, or E or more where no other column stands for that.
    """

    chosen: Tensor
    weights: Tensor
    repeated: int
    outside: int

    @classmethod
    def of(cls, indices: Tensor, weights: Tensor, experts: int, *, skips: bool) -> RecordedSelection:
        """Make it of a selection ``[N, K]``; an index of E or more stands for no routed expert."""
        indices, values = indices.detach().cpu().long(), weights.detach().cpu().double()
        routed = (indices >= 0) & (indices < experts)
        placed = indices.masked_fill(~routed, experts)
        counts = torch.zeros(len(indices), experts + 1).scatter_add_(1, placed, torch.ones(indices.shape))
        dense = torch.zeros(len(indices), experts + 1, dtype=torch.double).scatter_add_(1, placed, values)
        outside = ~routed if not skips else indices < 0
        repeated = (counts[:, :experts] - 1).clamp_min(0).sum()
        return cls(counts[:, :experts] > 0, dense[:, :experts], int(repeated), int(outside.sum()))


@dataclass
class Effect:
    """What muting one expert did."""

    change: Tensor  # [N, H]: the output minus the output without the expert
    changed: Tensor  # [N] bool
    alone: Tensor | None = None  # [N, H]: the expert's own part; NaN where it was not seen
    unit: Tensor | None = None  # [N]: the weight that `alone` was seen with, as recorded then; None: 1


class Stage:
    """A call of the innermost module that combines the experts' outputs, to be repeated with an expert muted.

    Args:
        site: The layer.
        parts: Its experts' parts.
        call: How the module was called.
        top_k: Experts selected per token, K.
    """

    def __init__(self, site: RouterSite, parts: ExpertParts, call: Call, top_k: int) -> None:
        self.site, self.parts, self.call, self.top_k = site, parts, call, top_k
        with _rows_of_modules(parts, range(parts.count)) as self.received:
            self.output = call.again()
        again = call.again()
        self.noise = float((again.double() - self.output.double()).abs().nan_to_num(0.0).max())
        self.eps = torch.finfo(self.output.dtype).eps
        self._keys = [] if call.hidden is None else [_key(row) for row in call.hidden.cpu()]

    @property
    def repeats(self) -> bool:
        """Whether the module gives by itself what it gave in the forward pass."""
        drift = (self.output.double() - self.call.output.double()).abs().nan_to_num(0.0).amax(-1)
        size = self.call.output.double().abs().nan_to_num(0.0).amax(-1)
        return bool((drift <= 16 * self.eps * size + 4 * self.noise).all())

    @property
    def rows_received(self) -> int | None:
        """Rows that the experts' own modules are called with, None where they have none."""
        return sum(len(rows) for calls in self.received.values() for rows, _ in calls) if self.received else None

    def mute(self, expert: int, *, recorded: bool) -> Effect:
        """Mute one expert and see what changes; see its own part alone, too, if that can be done.

        Args:
            expert: The expert.
            recorded: Whether it is recorded for any token, so that its own part is wanted in any case.
        """
        with _rows_of_modules(self.parts, [expert]) as rows, self.parts.muted(expert):
            without = self.call.again()
        change = (self.output.double() - without.double()).cpu()
        different = self.output != without
        different &= ~(self.output.isnan() & without.isnan())
        changed = different.any(-1).cpu() & (change.abs().nan_to_num(torch.inf).amax(-1) > 4 * self.noise)
        effect = Effect(change, changed)
        if not recorded and not changed.any():
            return effect
        if self.call.selection is not None:
            effect.alone = self._one_hot(expert)
        elif (module_change := self._own_module(expert, rows, changed)) is not None:
            effect.alone = module_change
        elif (raised := self.raised(expert)) is not None:
            effect.alone, effect.unit = raised
            effect.alone[effect.unit == 0] = torch.nan
        return effect

    def _one_hot(self, expert: int) -> Tensor:
        """Hand the experts module one expert for all tokens, with weight 1.

        The selection keeps its K columns, since some modules need them; those of other experts have weight 0.
        """
        assert self.call.selection is not None
        indices, weights = (self.call.arguments[place] for place in self.call.selection)
        one = (torch.arange(indices.shape[1], device=indices.device) + expert) % self.parts.count
        unit = torch.zeros_like(weights)
        unit[:, 0] = 1
        arguments = dict(zip(self.call.selection, (one.to(indices.dtype).expand_as(indices), unit), strict=True))
        output = self.call.again(arguments)
        with self.parts.muted(expert):
            without = self.call.again(arguments)
        return (output.double() - without.double()).cpu()

    def _own_module(self, expert: int, muted: dict[int, list[tuple[Tensor, Tensor]]], changed: Tensor) -> Tensor | None:
        """Find what the expert's module returned for each token, which is known by its hidden state."""
        if expert not in self.received or len(self.received[expert]) != len(muted.get(expert, [])):
            return None
        cache: dict[bytes, Tensor] = {}
        for (rows, output), (_, without) in zip(self.received[expert], muted[expert], strict=True):
            if output.shape != without.shape:
                return None
            parts = (output.double() - without.double()).cpu()
            cache.update(zip(map(_key, rows.cpu()), parts, strict=True))
        alone = torch.full((len(self._keys), self.output.shape[-1]), torch.nan, dtype=torch.double)
        for token, key in enumerate(self._keys):
            part = cache.get(key)
            if part is not None and part.shape == alone[token].shape:
                alone[token] = part
        return None if len(alone) != len(changed) or alone[changed].isnan().any() else alone

    def raised(self, expert: int) -> tuple[Tensor, Tensor] | None:
        """Raise the expert's logit far above all others at every token, and mute it then.

        Returns:
            What muting changes ``[N, H]``, and the recorded weight of the expert ``[N]``; None if nothing was recorded.
        """
        raised = _RaisedLogits(expert)
        with intercepted((self.site,), raised, top_k=self.top_k, check_reached=False):
            output = self.call.again()
            if 0 not in raised.selections:  # the router that is said to be this block's is not called in it
                return None
            recorded = RecordedSelection.of(*raised.selections[0], self.parts.count, skips=True)
            with self.parts.muted(expert):
                without = self.call.again()
        alone, unit = (output.double() - without.double()).cpu(), recorded.weights[:, expert]
        return (alone, unit) if len(unit) == len(alone) else None

    def scaled_inputs(self, home: Call | None) -> Tensor | None:
        """Return weights ``[N, E]`` where each expert gets every token's hidden state, scaled by its weight."""
        hidden = self.call.hidden
        router_input = home.hidden if home is not None else None
        if (
            hidden is None
            or router_input is None
            or router_input.shape != (self.parts.count * len(hidden), hidden.shape[1])
        ):
            return None
        tokens, scaled = hidden.double().cpu(), router_input.double().cpu().view(self.parts.count, *hidden.shape)
        weights = torch.einsum("enh,nh->ne", scaled, tokens) / tokens.square().sum(-1, keepdim=True)
        rest = (scaled - torch.einsum("ne,nh->enh", weights, tokens)).norm(dim=-1)
        return weights if bool((rest <= 4 * self.eps * tokens.norm(dim=-1)).all()) else None


class _RaisedLogits(SelectionListener):
    """Raises one expert's logit far above all others."""

    def __init__(self, expert: int) -> None:
        super().__init__()
        self._expert = expert

    def route(self, position: int, logits: Tensor) -> Tensor:
        raised = torch.full_like(logits, -_RAISED_LOGIT)
        raised[:, self._expert] = _RAISED_LOGIT
        return raised


@contextmanager
def _rows_of_modules(parts: ExpertParts, experts: Any) -> Iterator[dict[int, list[tuple[Tensor, Tensor]]]]:
    """Note, by expert, the rows that its own module is called with and those that it returns."""
    received: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def noted(expert: int) -> Any:
        def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            rows, returned = rows_of([*args, *kwargs.values()]), rows_of(output)
            if rows is not None and returned is not None and len(rows) == len(returned):
                received.setdefault(expert, []).append((rows.clone(), returned.clone()))

        return note

    handles = []
    if len(parts.containers) == 1 and not parts.stacks:
        for expert in experts:
            [module] = parts.modules(expert)
            handles.append(module.register_forward_hook(noted(expert), with_kwargs=True))
    try:
        yield received
    finally:
        for handle in handles:
            handle.remove()


def _key(row: Tensor) -> bytes:
    return row.contiguous().view(torch.uint8).numpy().tobytes()
