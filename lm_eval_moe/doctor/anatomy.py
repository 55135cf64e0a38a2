"""How a model routes, as its modules and its config say: the first thing that the doctor prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_moe.routers import RouterSite, find_sites, routing_shape
from lm_eval_moe.routers.blocks import RoutedBlock
from lm_eval_moe.routers.mode import RouterMode

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lm_eval_moe.shape import RoutingShape

__all__ = ["AFTERWARDS", "UNKNOWN", "Anatomy", "anatomy_of", "steering_model_block", "uncovered_layers"]

AFTERWARDS = "after selection"
"""The scoring of routers that choose by the logits themselves."""
UNKNOWN = "unknown"
"""The scoring of routers that could not be run without weights."""

_GROUPS = (  # what models call the number of groups of experts, and how many of them are chosen
    ("n_group", "num_group", "num_expert_group", "n_groups"),
    ("topk_group", "top_k_group", "n_limited_groups"),
)


@dataclass(frozen=True)
class Anatomy:
    """A model's routing.

    Attributes:
        model_class: The model's class.
        model_type: The type that its config names.
        adapters: The adapter of its blocks: ``generic``, or the name of the class.
        shape: Layers, experts, top-k.
        token_id_layers: Decoder layers whose experts are looked up by token id: nothing there can be steered.
        uncovered_layers: Decoder layers with experts whose router was not recognised.
        dense_layers: Decoder layers without experts.
        extra: Columns of the router beyond E, for shared, zero or skip experts.
        scoring: What the logits go through before the choice: softmax, sigmoid or softplus, `AFTERWARDS` or `UNKNOWN`.
        groups: Groups of experts, and how many of them are chosen; None for no groups.
        selection_bias: Names of the tensors that are added to the scores for the choice alone, in the first MoE layer.
        shared: Modules that every token passes besides the routed experts, in the first MoE layer, with their class.
    """

    model_class: str
    model_type: str
    adapters: tuple[str, ...]
    shape: RoutingShape
    token_id_layers: tuple[int, ...]
    uncovered_layers: tuple[int, ...]
    dense_layers: tuple[int, ...]
    extra: int
    scoring: str
    groups: tuple[int, int] | None
    selection_bias: tuple[str, ...]
    shared: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the anatomy as JSON-ready values."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {**plain, "shape": self.shape.to_dict(), "steering_model_block": steering_model_block(self.shape)}


def steering_model_block(shape: RoutingShape) -> dict[str, int]:
    """Return what a steering file for this model may say under ``model``."""
    return {"layers": shape.depth, "experts": shape.experts, "top_k": shape.top_k}


def anatomy_of(model: Any, sites: tuple[RouterSite, ...] | None = None, scoring: str | None = None) -> Anatomy:
    """Describe a model, real or on the meta device.

    Args:
        model: The model.
        sites: Its routers, if they are known already.
        scoring: How they score, if it is known already; otherwise the first router is run alone.

    Raises:
        UserError: It has no router that can be intercepted.
    """
    sites = find_sites(model) if sites is None else sites
    shape = routing_shape(model, sites)
    first = sites[0]
    parent = first.module
    by_token, uncovered = _layers_with_other_experts(model, sites, by_id=True), uncovered_layers(model, sites)
    adapters = {"generic" if type(site.block) is RoutedBlock else type(site.block).__name__ for site in sites}
    return Anatomy(
        model_class=type(model).__name__,
        model_type=str(model.config.model_type),
        adapters=tuple(sorted(adapters)),
        shape=shape,
        token_id_layers=by_token,
        uncovered_layers=uncovered,
        dense_layers=tuple(
            layer for layer in range(shape.depth) if layer not in {*shape.layers, *by_token, *uncovered}
        ),
        extra=first.block.extra,
        scoring=scoring or _scoring(first.block, shape.top_k),
        groups=_groups(model, first.block, parent),
        selection_bias=tuple(_selection_biases(first.block, parent)),
        shared=tuple(_shared(model, first, parent)),
    )


def uncovered_layers(model: Any, sites: tuple[RouterSite, ...]) -> tuple[int, ...]:
    """Return the decoder layers that have experts, but neither a known router nor a choice by token id."""
    return _layers_with_other_experts(model, sites, by_id=False)


def _layers_with_other_experts(model: Any, sites: tuple[RouterSite, ...], *, by_id: bool) -> tuple[int, ...]:
    """Return the decoder layers that have experts, no router that is intercepted, and a choice by token id or not."""
    stack = model.get_submodule(_layer_name(sites[0]).rpartition(".")[0])
    numbered = [(int(name), layer) for name, layer in stack.named_children() if name.isdigit()]
    routed = {site.layer for site in sites}
    return tuple(
        number
        for number, layer in numbered
        if number not in routed and _has_experts(layer) and _by_id(model, layer) == by_id
    )


def _layer_name(site: RouterSite) -> str:
    """Return the qualified name of the decoder layer that a block is in."""
    parts = site.path.split(".")
    return ".".join(parts[: parts.index(str(site.layer)) + 1])


def _has_experts(layer: nn.Module) -> bool:
    return any(
        "experts" in (last := name.rpartition(".")[2]) and "shared" not in last and any(True for _ in part.parameters())
        for name, part in layer.named_modules()
    )


def _by_id(model: Any, layer: nn.Module) -> bool:
    """Whether a layer holds a table from token ids to experts: integers ``[vocabulary, K]``."""
    words = model.config.get_text_config().vocab_size
    return any(
        not tensor.is_floating_point() and tensor.dim() == 2 and tensor.shape[0] == words
        for _, tensor in _tensors(layer)
    )


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _scoring(block: RoutedBlock, top_k: int) -> str:
    """Run the router alone on made-up hidden states and see how it scores; without weights, if it can."""
    weight = block.weight
    width = next((p.shape[-1] for p in block.router.parameters() if p.dim() == 2), weight.shape[-1])
    bias = torch.zeros(block.num_experts, device=weight.device)
    for form, more in product(((2, width), (1, 2, width)), ((), (bias,))):
        mode = RouterMode(block, lambda logits: logits, top_k=top_k)
        hidden = torch.zeros(form, dtype=weight.dtype, device=weight.device)
        try:
            with torch.no_grad(), mode:
                block.router(hidden, *more)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
            continue  # it takes another form, other arguments, or needs values that the meta device does not have
        if mode.hits:
            return mode.scoring or AFTERWARDS
    return UNKNOWN


def _groups(model: Any, block: RoutedBlock, parent: nn.Module) -> tuple[int, int] | None:
    config = model.config.get_text_config()
    for holder in (block.router, parent, config):
        sizes = [next((n for name in names if _is_count(n := getattr(holder, name, None))), None) for names in _GROUPS]
        if sizes[0] is not None and sizes[1] is not None:
            return (sizes[0], sizes[1]) if sizes[0] > 1 else None
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _selection_biases(block: RoutedBlock, parent: nn.Module) -> Iterator[str]:
    """Find a tensor called bias with an entry for each expert that is not a linear layer's bias."""
    sizes = {block.num_experts, block.num_experts + block.extra}
    experts = {id(tensor) for _, tensor in _tensors(block.experts)} if block.experts is not None else set()
    for name, module in parent.named_modules():
        for parameter_name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            flat = tensor.dim() == 1 or (tensor.dim() == 2 and tensor.shape[0] == 1)
            of_a_linear = parameter_name == "bias" and "weight" in module._parameters
            if (
                flat
                and tensor.numel() in sizes
                and "bias" in parameter_name
                and not of_a_linear
                and id(tensor) not in experts
            ):
                yield f"{name}.{parameter_name}" if name else parameter_name


def _shared(model: Any, site: RouterSite, parent: nn.Module) -> Iterator[str]:
    layer = model.get_submodule(_layer_name(site))
    for holder in dict.fromkeys((parent, layer)):
        for name, child in holder.named_children():
            if name.startswith("shared") and "gate" not in name:
                yield f"{name} ({type(child).__name__})"
