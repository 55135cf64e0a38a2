"""What is settled before a model's weights are loaded: where it lies, and its routing shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.routers import check_adapters, find_sites, model_on_meta, routing_shape
from lm_eval_moe.routers.families import load_adapter

if TYPE_CHECKING:
    from torch import nn

    from lm_eval_moe.shape import RoutingShape

__all__ = ["model_path", "modules_before_loading", "shape_before_loading"]


_OF_LOADING = ("pretrained", "revision", "subfolder", "trust_remote_code", "gguf_file", "dtype", "max_length")
"""Arguments that say how a model is loaded, although its config may have them, too."""


def model_path(pretrained: Any) -> Any:
    """Return where the model lies: the bundled one for ``demo``, otherwise what was given."""
    if pretrained != "demo":
        return pretrained
    from lm_eval_moe.demo_model import demo_model_path

    return str(demo_model_path())


def _config_of(pretrained: str, arguments: Mapping[str, Any]) -> Any:
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            pretrained,
            revision=str(arguments.get("revision") or "main"),
            subfolder=arguments.get("subfolder") or "",
            trust_remote_code=bool(arguments.get("trust_remote_code")),
            **({"gguf_file": arguments["gguf_file"]} if arguments.get("gguf_file") else {}),
        )
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"the model {pretrained!r} comes with its own code, which is not run without permission",
                fix="read it, and if you trust it, add --trust_remote_code (or trust_remote_code=true to --model_args)",
                where="--model_args pretrained",
            ) from error
        raise UserError(
            f"cannot load the config of {pretrained!r}: {str(error).splitlines()[0]}",
            fix="give a hub id, a local directory with a config.json, or demo",
            where="--model_args pretrained",
        ) from error
    # As transformers does when it loads the weights: what the config has is overridden there.
    for name, value in arguments.items():
        if name not in _OF_LOADING and hasattr(config, name):
            setattr(config, name, value)
    return config


def modules_before_loading(arguments: Mapping[str, Any]) -> nn.Module:
    """Build a model's modules on the meta device from its config.

    Args:
        arguments: The model arguments; an adapter among them is loaded.

    Raises:
        UserError: There is no such config, it is not of a decoder-only language model, or the adapter is for others.
    """
    adapters = () if arguments.get("adapter") is None else load_adapter(arguments["adapter"])
    config = _config_of(model_path(arguments.get("pretrained", "demo")), arguments)
    model = model_on_meta(config, trust_remote_code=bool(arguments.get("trust_remote_code")))
    check_adapters(model, adapters)
    return model


def shape_before_loading(arguments: Mapping[str, Any]) -> RoutingShape:
    """Return the routing shape that a model's config describes.

    Args:
        arguments: The model arguments; an adapter among them is loaded.

    Raises:
        UserError: There is no such model, or it is dense.
    """
    model = modules_before_loading(arguments)
    return routing_shape(model, find_sites(model))
