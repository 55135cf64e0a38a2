"""What runs during one router call: it recognises the router's linear, and guards the final top-k."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch._C import DisableTorchFunction
from torch.overrides import TorchFunctionMode

from lm_eval_moe.errors import RoutingBypassedError

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.routers.blocks import RoutedBlock

__all__ = ["Guard", "RouterMode"]

Guard = tuple["Tensor", "Tensor"]
"""What a top-k must take and what it must leave: bool masks ``[N, E]``."""

_SCORES = {
    torch.softmax: "softmax",
    torch.Tensor.softmax: "softmax",
    F.softmax: "softmax",
    torch.sigmoid: "sigmoid",
    torch.Tensor.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    F.softplus: "softplus",
}
_PLAIN = {torch.Tensor, torch.nn.Parameter}
_TRANSPOSES = (torch.t, torch.Tensor.t, torch.Tensor.T.__get__, torch.Tensor.mT.__get__, torch.Tensor.transpose)  # type: ignore[attr-defined]
_PRODUCTS = (torch.mm, torch.matmul, torch.Tensor.mm, torch.Tensor.matmul, torch.Tensor.__matmul__)
_KINDS: dict[Any, str] = {
    F.linear: "linear",
    **dict.fromkeys(_PRODUCTS, "product"),
    **dict.fromkeys(_TRANSPOSES, "transpose"),
    **dict.fromkeys((torch.topk, torch.Tensor.topk), "top-k"),
    **dict.fromkeys(_SCORES, "score"),
}


class RouterMode(TorchFunctionMode):
    """Hands the logits of one router call to ``edit`` and continues with what it returns.

    The router's linear is the one whose weight *is* the router's weight (or a product with its transpose); nothing
    else of the model's own code is replaced, so that with unchanged logits the outputs are bit-identical.

    Args:
        block: The block whose router is called.
        edit: From logits ``[N, E]`` to logits.
        guard: From edited logits to what the final top-k must take and leave, None for nothing.
        top_k: Experts selected per token, K: tells the final top-k from the choice of groups.
        is_plain: Whether an earlier call of the router was watched to its end, and was `plain`: this one is watched up
            to the product with the weight, which costs half as much, unless a guard waits for the top-k.
    """

    hits = 0
    plain = True
    """Whether all tensors of the call are torch's own, so that the functions after the product need nobody's say."""

    left = False
    """Whether what came after the product was not watched."""

    guarded = False
    scoring: str | None = None
    """How the logits were scored over all experts: softmax, sigmoid or softplus; None: not before the top-k."""

    _guard: Guard | None = None
    _logits: Tensor | None = None  # [N, E], as the model continues with them
    _projected: Tensor | None = None  # what the linear gave, edited
    _scores: Tensor | None = None

    def __init__(
        self,
        block: RoutedBlock,
        edit: Callable[[Tensor], Tensor],
        guard: Callable[[Tensor], Guard | None] | None = None,
        top_k: int = 0,
        *,
        is_plain: bool = False,
    ) -> None:
        super().__init__()
        self._block, self._edit = block, edit
        self._guard_of, self._top_k, self._is_plain = guard, top_k, is_plain
        self._weights: list[Tensor] = []  # casts of the weight (`self.weight.float()`) are the weight, too
        self._transposed: list[Tensor] = []
        self._unwatched = DisableTorchFunction()

    def __exit__(self, *error: Any) -> None:
        """Stop watching."""
        if self.left:
            self._unwatched.__exit__(*error)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    # Every function that a router calls comes through here, in every layer of every pass: the less, the better.
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = _KINDS.get(func)
        if types and not _PLAIN.issuperset(types):
            self.plain = False
        if kind == "top-k" and self._guard is not None:
            return self._guarded_top_k(func, args, kwargs)
        out = func(*args, **kwargs)
        if kind == "linear" or kind == "product":
            is_factor = self._is_weight if kind == "linear" else self._is_transposed
            if any(map(is_factor, (*args[1:], *kwargs.values()))):
                self.hits += 1
                return self._edited(out)
        elif args and isinstance(out, torch.Tensor):
            if kind == "score":
                if self._projected is not None and args[0].shape == self._projected.shape:
                    self._scores, self.scoring = out, _SCORES[func]
            elif self._is_weight(args[0]):
                if kind == "transpose":
                    self._transposed.append(out)
                elif out.dim() == 2 and out.shape == args[0].shape:
                    self._weights.append(out)
        return out

    @property
    def guard_missed(self) -> bool:
        """Whether a guard was asked for, but no top-k over all experts was there to be guarded."""
        return self._guard is not None and not self.guarded

    def _is_weight(self, tensor: object) -> bool:
        if tensor is self._block.weight:
            return True
        return bool(self._weights) and any(tensor is cast for cast in self._weights)

    def _is_transposed(self, tensor: object) -> bool:
        return any(tensor is transposed for transposed in self._transposed)

    def _edited(self, projected: Tensor) -> Tensor:
        if self._block.weight.is_meta and not projected.is_meta:  # a cast of what is not there gives arbitrary numbers
            raise RoutingBypassedError(
                f"{type(self._block.router).__name__} reads an offloaded weight that is not in memory: the model "
                "computes with arbitrary numbers",
                fix="keep this model's routers in memory (device_map)",
            )
        logits = self._block.logits_of(projected)
        edited = self._edit(logits)
        guard = self._guard_of(edited) if self._guard_of else None
        if guard is not None and self._block.guards_logits:
            edited, guard = _guarded_logits(edited, *guard, self._top_k), None
        if edited is not logits:
            projected = self._block.with_logits(projected, edited)
        self._logits, self._projected, self._guard = edited, projected, guard
        if self._is_plain and guard is None:
            self.left = True
            self._unwatched.__enter__()
        return projected

    def _guarded_top_k(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Choose by the guarded scores, but return the model's own values for what was chosen.

        Forced experts come first, in the order of their logits, so that more than K of them tie-break as these do; then
        the model's own choice; then the experts of groups that it leaves out, again in the order of their logits;
        banned ones last.
        """
        scores = args[0]
        k = args[1] if len(args) > 1 else kwargs["k"]
        assert self._guard is not None
        assert self._logits is not None
        force, ban = self._guard
        experts, width = self._block.num_experts, scores.shape[-1]
        beyond = width - experts  # zero or skip experts that the top-k chooses among, too
        if k != self._top_k or beyond not in {0, self._block.extra} or scores.numel() != len(force) * width:
            return func(*args, **kwargs)  # the choice of groups
        self.guarded = True
        flat = scores.reshape(-1, width)
        logits = F.pad(_precise(self._logits), (0, beyond), value=-torch.inf)
        force, ban = F.pad(force, (0, beyond)), F.pad(ban, (0, beyond))
        full = self._scores if self._scores is not None else self._projected
        assert full is not None
        full = full.reshape(len(flat), -1)[:, :width]
        left_out = (flat == -torch.inf) | ((flat == 0) & (full != 0))
        ranks = logits.argsort(dim=-1).argsort(dim=-1) / width
        limit = torch.finfo(torch.float32).max
        guarded = torch.where(left_out, limit * (ranks / 4 - 0.75), _precise(flat))
        guarded = torch.where(force, limit * (ranks / 4 + 0.5), guarded).masked_fill(ban, -torch.inf)
        indices = func(guarded.reshape(scores.shape), *args[1:], **kwargs).indices
        # Some routers take the combine weights from here: an expert brought back has the score that it had before.
        values = torch.where(left_out, full.to(scores.dtype), flat).reshape(scores.shape).gather(-1, indices)
        return torch.return_types.topk((values, indices))


def _guarded_logits(logits: Tensor, force: Tensor, ban: Tensor, top_k: int) -> Tensor:
    """Lift the forced logits until as many of them are among the largest K as can be, and lower the banned ones until
    none is that need not be.

    For routers whose choice follows the logits alone. Such routers take the combine weights from the logits, too: so
    they are moved no further than just past the one that has to give way, all of a token together, and not at all
    where the choice is right already. What is just past is a few units in the last place of the logits' type.
    """
    precise = _precise(logits)
    free = ~(force | ban)
    forced = force.sum(-1, keepdim=True).clamp_max(top_k)
    lift = _distance(_nth_largest(precise, force, forced), _nth_largest(precise, free, top_k + 1 - forced), logits)
    guarded = torch.where(force, precise + lift, precise)
    remaining = (~ban).sum(-1, keepdim=True).clamp_max(top_k)
    drop = _distance(
        _nth_largest(guarded, ~ban, remaining), _nth_largest(guarded, ban, torch.ones_like(remaining)), logits
    )
    limit = torch.finfo(logits.dtype).max
    return torch.where(ban, guarded - drop, guarded).clamp(-limit, limit).to(logits.dtype)


def _nth_largest(values: Tensor, among: Tensor, n: Tensor) -> Tensor:
    """Return the n-th largest of some values in each row, ``[N, 1]``; minus infinity where there are not so many."""
    ranked = values.masked_fill(~among, -torch.inf).sort(dim=-1, descending=True).values
    return ranked.gather(-1, (n - 1).clamp(0, values.shape[-1] - 1))


def _distance(upper: Tensor, lower: Tensor, logits: Tensor) -> Tensor:
    """Return how much is missing until ``upper`` is clearly above ``lower``, 0 where either is missing itself."""
    margin = 4 * torch.finfo(logits.dtype).eps * torch.maximum(upper.abs(), lower.abs()).clamp_min(1.0)
    missing = (lower + margin - upper).clamp_min(0.0)
    return torch.where(missing.isfinite(), missing, 0.0)


def _precise(values: Tensor) -> Tensor:
    """Return values in float32, or in float64 if they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
