"""What every backend's arguments ``capture`` and ``steering`` mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lm_eval_moe.errors import UserError, did_you_mean
from lm_eval_moe.recording import SPANS, Span
from lm_eval_moe.steering import SteeringPlan, SteeringSpec, load_spec, resolve

if TYPE_CHECKING:
    from lm_eval_moe.shape import RoutingShape

__all__ = ["capture_span", "nothing_generated", "resolve_plan"]

_WORDS: dict[str, Span | None] = {"true": "prompt", "false": None, "off": None, "none": None}
"""What else ``capture`` may be."""


def capture_span(capture: str | bool, think_end: str | int | None) -> Span | None:
    """Return the span to record, None for ``off``.

    Args:
        capture: As the user gave it.
        think_end: What ends the model's thinking, None where that is not known.

    Raises:
        UserError: Another value was given, or there can be no thinking to record.
    """
    if capture == "thinking" and think_end in (None, ""):
        raise UserError(
            "capture=thinking needs to know where the thinking ends",
            fix="add think_end_token, the text or the id of the token that ends it (think_end_token=</think>)",
            where="--model_args capture",
        )
    if capture in SPANS:
        return capture
    word = str(capture).lower()
    if word in _WORDS:
        return _WORDS[word]
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


def nothing_generated(task: str | None) -> UserError:
    """Return the error for ``capture=thinking`` on a task that scores texts.

    Args:
        task: Its name, if it has one.
    """
    return UserError(
        f"the task {task!r} scores existing texts: nothing is generated, so there is no thinking",
        fix="choose tasks that generate answers, or another span (capture=prompt, continuation or all)",
        where="--model_args capture",
    )
