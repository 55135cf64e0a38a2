"""What is settled before a model's weights are loaded: where it lies, and its routing shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lm_eval_moe.errors import UserError
from lm_eval_moe.routers import model_on_meta, shape_from_config
from lm_eval_moe.routers.families import load_adapter

if TYPE_CHECKING:
    from torch import nn

    from lm_eval_moe.shape import RoutingShape

__all__ = ["config_of", "model_path", "modules_before_loading", "shape_before_loading"]


def model_path(pretrained: Any) -> Any:
    """Return where the model lies: the bundled one for ``demo``, otherwise what was given."""
    if pretrained != "demo":
        return pretrained
    from lm_eval_moe.demo_model import demo_model_path

    return str(demo_model_path())


def config_of(pretrained: str, arguments: Mapping[str, Any]) -> Any:
    """Return the transformers config of a model.

    Args:
        pretrained: Hub id or local path.
        arguments: The model arguments; those that say where the config lies are heeded.

    Raises:
        UserError: There is no such config.
    """
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(
            pretrained,
            revision=str(arguments.get("revision") or "main"),
            subfolder=arguments.get("subfolder") or "",
            trust_remote_code=bool(arguments.get("trust_remote_code")),
            **({"gguf_file": arguments["gguf_file"]} if arguments.get("gguf_file") else {}),
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot load the config of {pretrained!r}: {str(error).splitlines()[0]}",
            fix="give a hub id, a local directory with a config.json, or demo",
            where="--model_args pretrained",
        ) from error


def modules_before_loading(arguments: Mapping[str, Any]) -> nn.Module:
    """Build a model's modules on the meta device from its config.

    Args:
        arguments: The model arguments; an adapter among them is loaded.

    Raises:
        UserError: There is no such config, or it is of no decoder-only language model.
    """
    config, trust = _config_and_trust(arguments)
    return model_on_meta(config, trust_remote_code=trust)


def shape_before_loading(arguments: Mapping[str, Any]) -> RoutingShape:
    """Return the routing shape that a model's config describes.

    Args:
        arguments: The model arguments; an adapter among them is loaded.

    Raises:
        UserError: There is no such model, or it is dense.
    """
    config, trust = _config_and_trust(arguments)
    return shape_from_config(config, trust_remote_code=trust)


def _config_and_trust(arguments: Mapping[str, Any]) -> tuple[Any, bool]:
    if arguments.get("adapter") is not None:
        load_adapter(arguments["adapter"])
    config = config_of(model_path(arguments.get("pretrained", "demo")), arguments)
    return config, bool(arguments.get("trust_remote_code"))
