"""Where a model routes: find the router and the experts of every mixture-of-experts layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.routers import families as families  # the adapters register themselves
from lm_eval_moe.routers.altered import check_router, is_wrapper
from lm_eval_moe.routers.blocks import NEEDS_ADAPTER, RoutedBlock, adapter_of
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from torch import nn

__all__ = ["RouterSite", "check_adapters", "encoder_decoder_error", "find_sites", "routing_shape", "shape_from_config"]

_TOP_K_NAMES = (
    "top_k",
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_top_k",
    "moe_k",
    "num_selected_experts",
    "top_k_experts",
)


@dataclass(frozen=True, eq=False)
class RouterSite:
    """One mixture-of-experts layer of a loaded model.

    Attributes:
        layer: Index of the decoder layer.
        name: Qualified name of the router module.
        block: The layer's parts, and how its logits and its selection are read.
        module: The block itself: what calls the router and combines its experts.
        path: Qualified name of the block.
        depth: Decoder layers of the model, dense ones included.
    """

    layer: int
    name: str
    block: RoutedBlock
    module: nn.Module
    path: str
    depth: int


def find_sites(model: nn.Module) -> tuple[RouterSite, ...]:
    """Find the routers of a model, ordered by decoder layer. Works on the meta device.

    Raises:
        UserError: The model has no router (it is dense), or a layer's router cannot be told apart.
    """
    sites = tuple(sorted(_iter_sites(model), key=lambda site: site.layer))
    if not sites:
        raise UserError(
            f"{type(model).__name__} has no mixture-of-experts layer that can be intercepted: it is a dense model, or "
            "its routers have an unknown form, or all of them choose by token id",
            fix=f"use --model hf for a dense model; otherwise {NEEDS_ADAPTER}",
        )
    layers = [site.layer for site in sites]
    if len(set(layers)) != len(layers):
        twice = sorted({layer for layer in layers if layers.count(layer) > 1})
        raise UserError(
            f"{type(model).__name__} has more than one router in layer(s) {twice}",
            fix=f"steering names a router by its layer: {NEEDS_ADAPTER}, which says which of them is meant",
        )
    parts = [part for site in sites for part in (site.block.router, site.block.experts) if part is not None]
    if len(set(parts)) != len(parts):
        raise UserError(
            f"layers of {type(model).__name__} share one router or experts module",
            fix="models whose layers share a module (a shared weight is fine) are not supported",
        )
    sizes = {site.block.num_experts for site in sites}
    if len(sizes) != 1:
        raise UserError(
            f"{type(model).__name__} has layers with different numbers of experts: {sorted(sizes)}",
            fix="models whose layers differ in their number of experts are not supported",
        )
    return sites


def check_adapters(model: nn.Module, adapters: Collection[type[RoutedBlock]]) -> None:
    """Check that one at least of the adapters that were given for a model is for a block of it.

    Raises:
        UserError: They are for others.
    """
    there = {cls.__name__ for module in model.modules() for cls in type(module).__mro__}
    if not adapters or any(there.intersection(adapter.class_names) for adapter in adapters):
        return
    classes = {
        type(module).__name__: module for module in model.modules() if not type(module).__module__.startswith("torch.")
    }
    # What holds experts says so by the names of its parts; of a model that does not, all classes are listed.
    blocks = [name for name, module in classes.items() if any("expert" in part for part, _ in module.named_children())]
    purposes = [f"{adapter.__name__} is for {' and '.join(adapter.class_names)}" for adapter in adapters]
    raise UserError(
        f"{', '.join(purposes)}, which {type(model).__name__} does not have; "
        f"{'the blocks here are' if blocks else 'the classes here are'} {', '.join(sorted(blocks or classes))}",
        fix="name the class of the model's blocks in class_names, or leave the adapter out",
        where="--model_args adapter",
    )


def _iter_sites(model: nn.Module) -> Iterator[RouterSite]:
    modules = dict(model.named_modules())
    names = {id(module): name for name, module in modules.items()}
    for name, module in modules.items():
        block = None if is_wrapper(module) else adapter_of(module).of(module, name)
        if block is not None:
            check_router(block.router, block.owner, block.num_experts + block.extra, names[id(block.router)])
            layer, depth = _layer_of(name, modules)
            yield RouterSite(layer, names[id(block.router)], block, module, name, depth)


def _layer_of(name: str, modules: dict[str, nn.Module]) -> tuple[int, int]:
    """Return the index of the decoder layer that a block is in, and the number of decoder layers."""
    parts = name.split(".")
    for place, part in enumerate(parts):
        if part.isdigit():
            return int(part), len(list(modules[".".join(parts[:place])].children()))
    raise UserError(f"the mixture-of-experts module {name!r} is not in a numbered decoder layer", fix=NEEDS_ADAPTER)


def routing_shape(model: nn.Module, sites: tuple[RouterSite, ...]) -> RoutingShape:
    """Return the routing shape of a model (real or on the meta device).

    Raises:
        UserError: The number of experts per token is stated neither by the router nor by the config, or is impossible.
    """
    config: Any = model.config
    text_config = config.get_text_config()
    block = sites[0].block
    holders = (block, block.router, block.owner, text_config, getattr(text_config, "ffn_config", None))
    top_k = next((int(getattr(h, n)) for h in holders for n in _TOP_K_NAMES if _is_count(getattr(h, n, None))), None)
    if top_k is None:
        raise UserError(
            f"{type(model).__name__} does not say how many experts it selects per token",
            fix=f"{NEEDS_ADAPTER}; its `of` must give top_k",
        )
    if top_k > block.num_experts:
        raise UserError(
            f"{type(model).__name__} is configured to select {top_k} of {block.num_experts} experts per token",
            fix="correct the number of experts per token in its config, or among the model arguments",
        )
    return RoutingShape(
        layers=tuple(site.layer for site in sites), experts=block.num_experts, top_k=top_k, depth=sites[0].depth
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def encoder_decoder_error(name: str) -> UserError:
    """Return the error that refuses an encoder-decoder model."""
    return UserError(
        f"{name} is an encoder-decoder model",
        fix="decoder-only mixture-of-experts models are steered and captured; use --model hf for this one",
    )


def shape_from_config(config: Any, *, trust_remote_code: bool = False) -> RoutingShape:
    """Return the routing shape that a transformers config describes, without its weights.

    Raises:
        UserError: The model is dense, no decoder-only language model, or of a family that needs an adapter.
    """
    model = model_on_meta(config, trust_remote_code=trust_remote_code)
    return routing_shape(model, find_sites(model))


def model_on_meta(config: Any, *, trust_remote_code: bool = False) -> nn.Module:
    """Build a model without weights, so that its routers are found by the very code that intercepts them.

    Raises:
        UserError: The config is not of a decoder-only language model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if config.is_encoder_decoder:
        raise encoder_decoder_error(type(config).__name__)
    try:
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except ValueError as error:
        raise UserError(
            f"cannot build a causal language model from {type(config).__name__}: {str(error).splitlines()[0]}",
            fix="give a decoder-only mixture-of-experts language model",
        ) from error
    return model
