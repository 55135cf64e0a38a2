"""What ``hf-moe`` cannot do without answering wrongly, and therefore refuses with a message."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from lm_eval_moe.backends.stopping import is_left_out
from lm_eval_moe.errors import RoutingWarning, UserError

__all__ = ["check_arguments", "check_device", "check_think_end", "checked_reuse"]


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse model arguments that cannot be heeded, before anything is loaded.

    Raises:
        UserError: One is there.
    """
    if arguments.get("tp_plan") is not None:
        raise UserError(
            "tensor parallelism renumbers the experts on every device, so that no device sees the routing as it is",
            fix="leave out tp_plan; use parallelize=True or device_map=auto for a model that needs several devices",
            where="--model_args tp_plan",
        )
    if arguments.get("enable_thinking") and arguments.get("think_end_token") is None:
        raise UserError(
            "enable_thinking=True needs to know where the thinking ends: it would be scored as the answer otherwise",
            fix="add think_end_token, the text or the number of the token that ends it (think_end_token=</think>)",
            where="--model_args enable_thinking",
        )
    for name in ("load_in_8bit", "load_in_4bit"):
        if arguments.get(name):
            raise UserError(
                f"transformers 5 takes no {name}",
                fix="give a checkpoint that is stored quantised; or, in Python, load the model with "
                f"quantization_config=BitsAndBytesConfig({name}=True) and give it as pretrained",
                where=f"--model_args {name}",
            )


def check_think_end(tokenizer: Any, think_end: str | int | None) -> None:
    """Warn of an end of thinking that lm-eval cannot find, so that it would score the thinking as the answer."""
    if isinstance(think_end, str) and think_end and is_left_out(tokenizer, think_end):
        ids = tokenizer.encode(think_end, add_special_tokens=False)
        advice = f"its number instead, think_end_token={ids[0]}" if len(ids) == 1 else "a part that is not special"
        warnings.warn(
            f"think_end_token={think_end!r} cannot be seen in the text that lm-eval reads, where special tokens are "
            f"left out: the thinking will be scored as the answer; give {advice}",
            RoutingWarning,
            stacklevel=3,
        )


def check_device(kind: str) -> None:
    """Refuse a model all of whose weights were offloaded after it was loaded: it says no device.

    Raises:
        UserError: It is one.
    """
    if kind == "meta":
        raise UserError(
            "all weights of the model are offloaded, so that it does not say where its inputs go",
            fix="give its folder as pretrained, with parallelize=True and a device_map or offload_folder",
        )


def checked_reuse(given: str | bool) -> str:
    """Return whether contexts are shared, ``auto`` or ``off``.

    Raises:
        UserError: Something else was given.
    """
    reuse = {False: "off", True: "auto"}.get(given, given) if isinstance(given, bool) else given
    if reuse not in ("auto", "off"):
        raise UserError(
            f"{given!r} is not a way of sharing contexts",
            fix="reuse=auto computes once what requests begin with in common; reuse=off computes each by itself",
            where="--model_args reuse",
        )
    return reuse
