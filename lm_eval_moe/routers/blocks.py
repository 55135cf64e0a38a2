"""What an adapter says about one mixture-of-experts block: its parts, its logits, its selection.

`RoutedBlock` itself fits what most families of transformers build: a router with an ``[E, hidden]`` weight next to an
experts module that takes the selected indices and their combine weights. A family that differs derives a class that
says how; see ``docs/adapters.md``.
"""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from lm_eval_moe.discovery import load_plugins
from lm_eval_moe.errors import RoutingBypassedError, UserError
from lm_eval_moe.routers.altered import parts_without_peft, without_peft

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["NEEDS_ADAPTER", "ExpertListBlock", "RoutedBlock", "adapter_of", "looped_error"]

NEEDS_ADAPTER = (
    "this family needs an adapter, a class of a few lines (docs/adapters.md shows one); give its file with "
    "--model_args adapter=FILE"
)

# What experts modules call the selected indices and their combine weights.
_SELECTION_NAMES = (("top_k_index", "top_k_weights"), ("router_indices", "routing_weights"))

_ROUTER_NAMES = ("gate", "router", "gating", "block_sparse_moe_gate")

_ADAPTERS: dict[str, type[RoutedBlock]] = {}


class RoutedBlock:
    """One mixture-of-experts block of a model.

    Deriving a class with `class_names` registers it as the adapter of blocks whose class is called so.

    Args:
        router: The module whose ``forward`` maps hidden states to a choice of experts.
        owner: The module that holds the router's weight ``[E + extra, H]``: ``router`` itself or a part of it.
        experts: The module that is called with what was selected; None where the block calls each expert on its own.
        num_experts: Routed experts, E.
        extra: Further rows of the weight behind the first E, for shared, zero or skip experts. They are never
            steered and count neither in the statistics of the logits nor in the records.
        top_k: Experts selected per token, K; None where the router or the config says it.
    """

    class_names: ClassVar[tuple[str, ...]] = ()
    """Class names of the blocks that the adapter is for."""

    guards_logits: ClassVar[bool] = False
    """Set where no top-k over all experts runs inside the router's call: ``guard`` then acts on the logits alone,
    which suffices where neither groups nor a selection bias come after them. Where the choice is not as it should be,
    the combine weights change with them."""

    hands_on_selection: ClassVar[bool] = True
    """Whether the experts' call gets the selected indices and their weights; else the router's output holds them."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in cls.class_names:
            _ADAPTERS[name] = cls

    def __init__(
        self,
        *,
        router: nn.Module,
        owner: nn.Module,
        experts: nn.Module | None,
        num_experts: int,
        extra: int = 0,
        top_k: int | None = None,
    ) -> None:
        self.router, self.owner, self.experts = router, owner, experts
        self.num_experts, self.extra, self.top_k = num_experts, extra, top_k

    @classmethod
    def of(cls, block: nn.Module, name: str) -> RoutedBlock | None:
        """Return the parts of a block, None if it does not choose experts by its router's logits.

        Args:
            block: A block of one of the `class_names`; for `RoutedBlock` itself, any module.
            name: Its qualified name, for messages.

        Raises:
            UserError: The block's routing cannot be intercepted.
        """
        experts = [(child_name, child) for child_name, child in block.named_children() if _takes_selection(child)]
        if not experts:
            return ExpertListBlock.of_list(block, name)
        if len(experts) > 1:
            raise UserError(f"{name} ({type(block).__name__}) has several modules of experts", fix=NEEDS_ADAPTER)
        [(experts_name, module)] = experts
        num_experts: int = without_peft(module).num_experts
        router, owner = _router_of(block, {experts_name}, num_experts, name)
        return cls(router=router, owner=owner, experts=module, num_experts=num_experts)

    @property
    def weight(self) -> Tensor:
        """The router's weight ``[E + extra, H]``, looked up again each time: offloading replaces the parameter."""
        # Asked for by every function that a router calls: first where parameters are, without the module's own search.
        weight: Tensor | None = self.owner._parameters.get("weight")
        return self.owner.weight if weight is None else weight  # type: ignore[return-value]

    def logits_of(self, projected: Tensor) -> Tensor:
        """Return the router logits ``[N, E]`` in what the router's linear gave, ``[.., E + extra]``."""
        flat = projected if projected.dim() == 2 else projected.reshape(-1, projected.shape[-1])
        return flat[:, : self.num_experts] if self.extra else flat

    def with_logits(self, projected: Tensor, logits: Tensor) -> Tensor:
        """Return ``projected`` with other router logits ``[N, E]``."""
        if not self.extra:
            return logits.reshape(projected.shape)
        flat = projected.reshape(-1, projected.shape[-1])
        return torch.cat([logits, flat[:, self.num_experts :]], dim=-1).reshape(projected.shape)

    def selection_received(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return indices ``[N, K]`` and combine weights ``[N, K]`` from the arguments of the experts' call.

        An index of E or more stands for no routed expert. Asked only where `hands_on_selection` is set.
        """
        assert self._selection is not None, "hands_on_selection is set, but the experts take no selection"
        indices, weights = (args[place] if len(args) > place else kwargs[name] for name, place in self._selection)
        return indices, weights

    @cached_property
    def _selection(self) -> tuple[tuple[str, int], tuple[str, int]] | None:
        """Name and place of the indices and of the weights among the arguments of the experts' call."""
        return None if self.experts is None else _selection_arguments(self.experts)

    def selection_returned(self, output: Any, top_k: int) -> tuple[Tensor, Tensor]:
        """Return indices ``[N, K]`` and combine weights ``[N, K]`` from what the router's call returned.

        An index of E or more stands for no routed expert.

        Raises:
            RoutingBypassedError: They are not there.
        """
        values = [v for v in output if isinstance(v, torch.Tensor)] if isinstance(output, (tuple, list)) else []
        candidates = [value for value in values if not value.is_floating_point() and value.shape[-1] == top_k]
        if candidates:
            weights = [v for v in values if v.is_floating_point() and v.shape == candidates[0].shape]
            if weights:
                return candidates[0].reshape(-1, top_k), weights[-1].reshape(-1, top_k)
        raise RoutingBypassedError(
            f"{type(self.router).__name__} returns no selected indices with their weights", fix=NEEDS_ADAPTER
        )


class ExpertListBlock(RoutedBlock):
    """A block with a list of experts, which it calls one by one, as models bring it that come with their own code."""

    hands_on_selection = False

    @classmethod
    def of_list(cls, block: nn.Module, name: str) -> RoutedBlock | None:
        """Return the parts of a block with a list of experts, None for any other module.

        The list is called ``experts``, or anything else if a router next to it has a row for each of its members.

        Raises:
            UserError: The router, or which of several lists has the experts, is unclear.
        """
        lists = {
            child_name: len(child)
            for child_name, child in block.named_children()
            if isinstance(child, torch.nn.ModuleList) and len(child) > 1
        }
        if "experts" in lists:
            lists = {"experts": lists["experts"]}
        else:
            lists = {child_name: size for child_name, size in lists.items() if _has_router(block, size)}
        if not lists:
            return None
        if len(set(lists.values())) > 1:
            raise UserError(
                f"cannot identify the experts of {name} ({type(block).__name__}): it has several lists of modules with "
                f"a router, {' and '.join(f'{child_name} of {size}' for child_name, size in lists.items())}",
                fix=NEEDS_ADAPTER,
            )
        [num_experts] = set(lists.values())  # several lists: one for each linear of an expert
        router, owner = _router_of(block, lists, num_experts, name)
        return cls(router=router, owner=owner, experts=None, num_experts=num_experts)


def adapter_of(block: nn.Module) -> type[RoutedBlock]:
    """Return the adapter of a block: that of its class's name, or the one that fits most."""
    load_plugins()
    for cls in type(block).__mro__:
        if cls.__name__ in _ADAPTERS:
            return _ADAPTERS[cls.__name__]
    return RoutedBlock


def looped_error(layer: int) -> UserError:
    """Return the error that refuses a model which runs a decoder layer more than once in one forward pass."""
    return UserError(
        f"the model is looped: decoder layer {layer} runs more than once in one forward pass, so a token has "
        "several routings there, but it would be recorded, compared and steered as having one",
        fix="looped models are not supported; use --model hf for this one",
    )


def _takes_selection(module: nn.Module) -> bool:
    return hasattr(without_peft(module), "num_experts") and _selection_arguments(module) is not None


def _selection_arguments(experts: nn.Module) -> tuple[tuple[str, int], tuple[str, int]] | None:
    """Return name and place of the indices and of the weights among the arguments of an experts module's call."""
    names = list(inspect.signature(type(without_peft(experts)).forward).parameters)[1:]  # without self
    for indices, weights in _SELECTION_NAMES:
        if indices in names and weights in names:
            return (indices, names.index(indices)), (weights, names.index(weights))
    return None


def _has_router(block: nn.Module, num_experts: int) -> bool:
    """Whether a child that is called a router has a weight with a row for each expert."""
    return any(name in _ROUTER_NAMES for name, _, _ in _with_weight(block, num_experts))


def _with_weight(block: nn.Module, rows: int) -> Iterator[tuple[str, nn.Module, nn.Module]]:
    """Yield the parts of a block with a weight of so many rows: the child's name, the child, and the part."""
    for child_name, child in block.named_children():
        for part in parts_without_peft(child):
            weight = part._parameters.get("weight")
            if weight is not None and weight.dim() == 2 and weight.shape[0] == rows:
                yield child_name, child, part


def _router_of(
    block: nn.Module, of_experts: Container[str], num_experts: int, block_name: str
) -> tuple[nn.Module, nn.Module]:
    """Return the child of the block that routes, and the part of it that holds the ``[E, H]`` weight."""
    modules = [entry for entry in _with_weight(block, num_experts) if entry[0] not in of_experts]
    # A shared expert may happen to have E rows as well: the router is the one that is called so.
    router_names = [child_name for child_name, _ in block.named_children() if child_name in _ROUTER_NAMES]
    candidates = [entry for entry in modules if entry[0] in router_names] if router_names else modules
    if len(candidates) != 1:
        names = [name for name, _, _ in candidates] or "none"
        raise UserError(
            f"cannot identify the router of {block_name} ({type(block).__name__}): expected a module with a "
            f"floating-point weight of {num_experts} rows next to its experts, found {names}",
            fix="if the model is quantised or its routers are reparametrised, exclude the routers from that "
            f"(llm_int8_skip_modules, modules_to_not_convert); otherwise {NEEDS_ADAPTER}",
        )
    [(_, router, owner)] = candidates
    return router, owner
