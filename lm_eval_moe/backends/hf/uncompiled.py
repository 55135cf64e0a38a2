"""Compiled models run eagerly while their routing is captured or steered.

What is put around the routers changes from batch to batch: compiled code would be compiled again each time, until
torch gives up and runs eagerly anyway, and code compiled before may skip the hooks that tell where a pass begins.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["generating_module", "uncompiled"]


def uncompiled(model: Any) -> AbstractContextManager[Any]:
    """Return a context in which a model with compiled parts runs eagerly; nothing changes for any other model.

    There, ``torch.compile`` stays on: attention may be a function compiled for every model (flex attention).
    """
    if any(map(_is_compiled, model.modules())):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def generating_module(model: Any) -> Any:
    """Return the module that ``generate`` calls for each pass, inside PEFT's and torch.compile's wrappers."""
    model = getattr(model, "_orig_mod", model)
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return getattr(model, "_orig_mod", model)


def _is_compiled(module: Any) -> bool:
    return (
        hasattr(module, "_orig_mod")  # torch.compile(module)
        or module._compiled_call_impl is not None  # module.compile()
        or hasattr(module.forward, "_torchdynamo_orig_callable")  # module.forward = torch.compile(module.forward)
    )
