"""What is settled before a model's weights are loaded: where it lies, its routing shape, whether the steering fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe.capture import SPANS, Span
from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.steering import SteeringPlan, SteeringSpec, load_spec, resolve

if TYPE_CHECKING:
    from lm_eval_moe.shape import RoutingShape

__all__ = ["capture_span", "config_of", "model_path", "resolve_plan", "shape_before_loading"]


def model_path(pretrained: Any) -> Any:
    """Return where the model lies: the bundled one for ``demo``, otherwise what was given."""
    if pretrained != "demo":
        return pretrained
    from lm_eval_moe.demo_model import demo_model_path

    return str(demo_model_path())


def capture_span(capture: str | bool, think_end: str | int | None) -> Span | None:
    """Return the span to record, None for ``off``.

    Args:
        capture: As the user gave it.
        think_end: What ends the model's thinking, None where that is not known.

    Raises:
        UserError: Another value was given, or there can be no thinking to record.
    """
    if isinstance(capture, bool):
        return "prompt" if capture else None
    if capture == "thinking" and think_end in (None, ""):
        raise UserError(
            "capture=thinking needs to know where the thinking ends",
            fix="add think_end_token, the text or the number of the token that ends it (think_end_token=</think>)",
            where="--model_args capture",
        )
    if capture in SPANS:
        return capture
    if capture.lower() in ("off", "false", "none"):
        return None
    if capture.lower() == "true":
        return "prompt"
    raise UserError(
        f"capture={capture!r} is not a span{did_you_mean(capture, [*SPANS, 'off'])}",
        fix=f"use capture={', '.join(SPANS)} or off",
        where="--model_args capture",
    )


def resolve_plan(steering: str | Path | SteeringSpec | SteeringPlan | None, shape: RoutingShape) -> SteeringPlan | None:
    """Return the plan for a model of this shape from a file, a spec or a plan.

    Raises:
        UserError: The file cannot be read, or the steering does not fit the shape.
    """
    if steering is None:
        return None
    if isinstance(steering, SteeringPlan):
        if steering.shape != shape:
            raise UserError(
                f"the plan {steering.name!r} was resolved for another model: {steering.shape}, not {shape}",
                fix="resolve the spec for this model, or give set_steering() the spec itself",
            )
        return steering
    spec = steering if isinstance(steering, SteeringSpec) else load_spec(steering)
    return resolve(spec, shape)


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


def shape_before_loading(pretrained: str, **kwargs: Any) -> RoutingShape:
    """Return the routing shape that a model's config describes.

    Raises:
        UserError: There is no such model, or it is dense.
    """
    from lm_eval_moe.routers import shape_from_config

    trust = bool(kwargs.get("trust_remote_code"))
    return shape_from_config(config_of(pretrained, kwargs), trust_remote_code=trust)
