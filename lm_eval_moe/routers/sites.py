"""Where a model routes: find the router and the experts of every mixture-of-experts layer by their structure."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "RouterSite",
    "encoder_decoder_error",
    "find_sites",
    "routing_shape",
    "selection_arguments",
    "shape_from_config",
]

# What experts modules call the selected indices and their combine weights.
_SELECTION_NAMES = (("top_k_index", "top_k_weights"), ("router_indices", "routing_weights"))

_TOP_K_NAMES = ("top_k", "num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k", "num_selected_experts")


@dataclass(frozen=True, eq=False)
class RouterSite:
    """One mixture-of-experts layer of a loaded model.

    Attributes:
        layer: Index of the decoder layer.
        name: Qualified name of the router module.
        router: The module that maps hidden states to experts; its ``forward`` is what gets intercepted.
        owner: The module that holds the router's weight: ``router`` itself or a part of it.
        experts: The module that receives the selected indices and their combine weights.
        num_experts: Routed experts, E.
    """

    layer: int
    name: str
    router: nn.Module
    owner: nn.Module
    experts: nn.Module
    num_experts: int

    @property
    def weight(self) -> Tensor:
        """The router's weight ``[E, hidden]``, looked up anew each time: offloading replaces the parameter."""
        weight: Tensor = self.owner.weight  # type: ignore[assignment]
        return weight


def find_sites(model: nn.Module) -> tuple[RouterSite, ...]:
    """Find the routers of a model, ordered by decoder layer.

    An experts module takes the selected indices and their weights; its router is the module beside it that owns a
    ``[E, hidden]`` weight. Works on the meta device.

    Raises:
        UserError: The model has no router (it is dense), or a layer's router cannot be told apart.
    """
    sites = tuple(sorted(_iter_sites(model), key=lambda site: site.layer))
    if not sites:
        raise UserError(
            f"{type(model).__name__} has no mixture-of-experts layer that can be intercepted: it is a dense model, or "
            "its routers are of an unknown form",
            fix="use --model hf for a dense model; hf-moe needs routers and experts as transformers>=5 builds them",
        )
    layers = [site.layer for site in sites]
    if len(set(layers)) != len(layers):
        twice = sorted({layer for layer in layers if layers.count(layer) > 1})
        raise UserError(
            f"{type(model).__name__} has more than one router in layer(s) {twice}",
            fix="models with several routers a layer are not supported",
        )
    sizes = {site.num_experts for site in sites}
    if len(sizes) != 1:
        raise UserError(
            f"{type(model).__name__} has layers with different numbers of experts: {sorted(sizes)}",
            fix="models whose layers differ in their number of experts are not supported",
        )
    return sites


def _iter_sites(model: nn.Module) -> Iterator[RouterSite]:
    modules = dict(model.named_modules())
    for name, experts in modules.items():
        if not _is_experts(experts):
            continue
        block_name, _, experts_name = name.rpartition(".")
        num_experts = int(experts.num_experts)
        router_name, owner = _router_of(modules[block_name], experts_name, num_experts, block_name)
        qualified = f"{block_name}.{router_name}" if block_name else router_name
        yield RouterSite(_layer_index(name), qualified, modules[qualified], owner, experts, num_experts)


def selection_arguments(experts: nn.Module) -> tuple[tuple[str, int], tuple[str, int]] | None:
    """Return name and place of the indices and of the weights among the arguments of an experts module's call.

    None if the module is no experts module.
    """
    names = list(inspect.signature(type(experts).forward).parameters)[1:]  # without self
    for indices, weights in _SELECTION_NAMES:
        if indices in names and weights in names:
            return (indices, names.index(indices)), (weights, names.index(weights))
    return None


def _is_experts(module: nn.Module) -> bool:
    return hasattr(module, "num_experts") and selection_arguments(module) is not None


def _router_of(block: nn.Module, experts_name: str, num_experts: int, block_name: str) -> tuple[str, nn.Module]:
    """Return the child of the block that routes, and the part of it that holds the ``[E, hidden]`` weight."""
    found: list[tuple[str, nn.Module]] = []
    for child_name, child in block.named_children():
        if child_name == experts_name:
            continue
        for part in child.modules():
            weight = part._parameters.get("weight")
            if weight is not None and weight.dim() == 2 and weight.shape[0] == num_experts:
                found.append((child_name, part))
    # A shared expert may happen to have E rows as well: the router is the one that is called so.
    named = [(name, part) for name, part in found if name in ("gate", "router", "gating", "block_sparse_moe_gate")]
    candidates = named or found
    if len(candidates) != 1:
        names = [name for name, _ in candidates] or "none"
        raise UserError(
            f"cannot tell the router of {block_name} ({type(block).__name__}): a module with a weight of "
            f"{num_experts} rows is expected beside its experts, found {names}",
            fix="this model family needs an adapter in lm_eval_moe/routers",
        )
    return candidates[0]


def _layer_index(name: str) -> int:
    for part in name.split("."):
        if part.isdigit():
            return int(part)
    raise UserError(
        f"the mixture-of-experts module {name!r} is in no numbered decoder layer",
        fix="this model family needs an adapter in lm_eval_moe/routers",
    )


def routing_shape(model: nn.Module, sites: tuple[RouterSite, ...]) -> RoutingShape:
    """Return the routing shape of a model (real or on the meta device).

    Raises:
        UserError: The number of experts per token is stated neither by the router nor by the config.
    """
    config: Any = model.config
    text_config = config.get_text_config()
    holders = (sites[0].router, sites[0].owner, text_config)
    top_k = next((int(getattr(h, n)) for h in holders for n in _TOP_K_NAMES if _is_count(getattr(h, n, None))), None)
    if top_k is None:
        raise UserError(
            f"{type(model).__name__} does not say how many experts it selects per token",
            fix="this model family needs an adapter in lm_eval_moe/routers",
        )
    layers = tuple(site.layer for site in sites)
    depth = int(getattr(text_config, "num_hidden_layers", layers[-1] + 1))
    return RoutingShape(layers=layers, experts=sites[0].num_experts, top_k=top_k, depth=depth)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def encoder_decoder_error(name: str) -> UserError:
    """Return the error that refuses an encoder-decoder model."""
    return UserError(
        f"{name} is an encoder-decoder model",
        fix="hf-moe steers and captures decoder-only mixture-of-experts models; use --model hf for this one",
    )


def shape_from_config(config: Any, *, trust_remote_code: bool = False) -> RoutingShape:
    """Return the routing shape that a transformers config describes, without its weights.

    The model is built on the meta device, so that the routers are found by the very code that intercepts them.

    Raises:
        UserError: The model is dense, no decoder-only language model, or of a family that needs an adapter.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if config.is_encoder_decoder:
        raise encoder_decoder_error(type(config).__name__)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except ValueError as error:
        raise UserError(
            f"cannot build a causal language model from {type(config).__name__}: {str(error).splitlines()[0]}",
            fix="hf-moe needs a decoder-only mixture-of-experts language model",
        ) from error
    return routing_shape(model, find_sites(model))
