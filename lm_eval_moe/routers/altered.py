"""Models changed after they were built: what PEFT wraps around routers and experts, and weights that are packed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_moe.errors import UserError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_router", "is_wrapper", "parts_without_peft", "without_peft"]

_CHANGES_WEIGHT = "ParamWrapper"
"""PEFT's LoRA on a parameter: for each call it puts weight plus delta in the weight's place."""
_TAKES_PLACE = "ModulesToSaveWrapper"
"""PEFT's trained copy of a whole module, which is called instead of it."""


def is_wrapper(module: nn.Module) -> bool:
    """Whether a module is one of PEFT's."""
    return type(module).__module__.partition(".")[0] == "peft"


def without_peft(module: Any) -> Any:
    """Return the module that does the work inside PEFT's wrappers; any other module is itself."""
    while is_wrapper(module):
        if type(module).__name__ == _TAKES_PLACE:
            active = module.active_adapters
            module = (
                module.modules_to_save[active[0]] if active and not module.disable_adapters else module.original_module
            )
        elif hasattr(module, "base_layer"):
            module = module.base_layer
        else:
            return module
    return module


def parts_without_peft(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and its descendants as they were before PEFT wrapped some of them."""
    core = without_peft(module)
    yield core
    for child in core.children():
        yield from parts_without_peft(child)


def check_router(router: nn.Module, owner: nn.Module, rows: int, name: str) -> None:
    """Check that what the router's linear gives is what its experts are chosen by.

    Args:
        router: The module that maps hidden states to a choice of experts.
        owner: The module that holds the router's weight: ``router`` itself or a part of it.
        rows: Rows that the weight should have.
        name: The router's qualified name.

    Raises:
        UserError: PEFT adds to the linear's output, or the weight is packed by a quantisation.
    """
    for module in router.modules():
        changes_logits = is_wrapper(module) and type(module).__name__ not in (_CHANGES_WEIGHT, _TAKES_PLACE)
        if changes_logits and any(part is owner for part in module.modules()):
            raise UserError(
                f"the router {name} has a PEFT adapter ({type(module).__name__}) on its linear layer: the experts are "
                "chosen by logits that are changed after it, so they can be neither captured nor steered",
                fix="merge the adapter into the model (merge_and_unload) and pass the merged model as pretrained",
            )
    weight = getattr(owner, "weight", None)
    plain = isinstance(weight, torch.Tensor) and weight.is_floating_point()
    if not plain or weight.dim() != 2 or weight.shape[0] != rows:  # type: ignore[union-attr]
        raise UserError(
            f"the router {name} ({type(owner).__name__}) has no floating-point weight of {rows} rows: "
            "its logits cannot be seen or changed",
            fix="if the model is quantised, exclude its routers from that (llm_int8_skip_modules, "
            "modules_to_not_convert); they are a tiny part of the model",
        )
