"""What ``hf-moe`` cannot do without answering wrongly, and therefore refuses with a message."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from lm_eval_moe.backends.stopping import is_left_out
from lm_eval_moe.errors import RoutingWarning, UserError, did_you_mean

__all__ = ["check_arguments", "check_device", "check_think_end", "check_tokenizer", "checked_reuse"]

_DTYPES = ("float32", "bfloat16", "float16", "float64")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse model arguments that cannot be heeded, before anything is loaded.

    Raises:
        UserError: One is there.
    """
    if arguments.get("tp_plan") is not None:
        raise UserError(
            "tensor parallelism renumbers the experts on every device, so no device sees the routing as it is",
            fix="leave out tp_plan; use parallelize=True or device_map=auto for a model that needs several devices",
            where="--model_args tp_plan",
        )
    dtype = arguments.get("dtype")
    if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(
            f"{dtype!r} is not a torch dtype{did_you_mean(dtype, _DTYPES)}",
            fix=f"use {', '.join(_DTYPES)}, or auto for the checkpoint's own",
            where="--model_args dtype",
        )
    _check_device(arguments.get("device"))
    if arguments.get("enable_thinking") and arguments.get("think_end_token") is None:
        raise UserError(
            "enable_thinking=True needs to know where the thinking ends: otherwise it would be scored as the answer",
            fix="add think_end_token, the text or the id of the token that ends it (think_end_token=</think>)",
            where="--model_args enable_thinking",
        )
    for name in ("load_in_8bit", "load_in_4bit"):
        if arguments.get(name):
            raise UserError(
                f"transformers 5 does not accept {name}",
                fix="give a checkpoint that is already quantised; or, in Python, load the model with "
                f"quantization_config=BitsAndBytesConfig({name}=True) and pass it as pretrained",
                where=f"--model_args {name}",
            )


def _check_device(device: Any) -> None:
    # Of a number, such as its own default cuda:0, lm-eval sees to it that the device is there.
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(str(device), True):
        raise UserError(
            f"there is no device {device}",
            fix="leave it out, or use cpu; a GPU needs its driver and a build of torch for it",
            where="--device",
        )


def check_think_end(tokenizer: Any, think_end: str | int | None) -> None:
    """Warn of an end of thinking that lm-eval cannot find, so that it would score the thinking as the answer."""
    if isinstance(think_end, str) and think_end and is_left_out(tokenizer, think_end):
        ids = tokenizer.encode(think_end, add_special_tokens=False)
        advice = f"its id instead, think_end_token={ids[0]}" if len(ids) == 1 else "a part that is not special"
        warnings.warn(
            f"think_end_token={think_end!r} never appears in the text that lm-eval reads, because special tokens are "
            f"left out: the thinking will be scored as the answer; give {advice}",
            RoutingWarning,
            stacklevel=3,
        )


def check_tokenizer(tokenizer: Any, source: Any) -> None:
    """Refuse a tokenizer that reads nothing: transformers makes an empty one where a folder has none.

    Raises:
        UserError: It is one.
    """
    if not tokenizer.encode("a text", add_special_tokens=False):
        raise UserError(
            f"there is no tokenizer in {str(getattr(source, 'name_or_path', source))!r}",
            fix="put the tokenizer files next to the model, or name another folder or hub id that has them "
            "(--model_args tokenizer=...)",
            where="--model_args pretrained",
        )


def check_device(kind: str) -> None:
    """Refuse a model all of whose weights were offloaded after it was loaded: it says no device.

    Raises:
        UserError: It is one.
    """
    if kind == "meta":
        raise UserError(
            "all weights of the model are offloaded, so it cannot say on which device it expects its inputs",
            fix="give its folder as pretrained, with parallelize=True and a device_map or offload_folder",
        )


def checked_reuse(value: str | bool) -> str:
    """Return whether contexts are shared, ``auto`` or ``off``.

    Raises:
        UserError: Something else was given.
    """
    reuse = {False: "off", True: "auto"}.get(value, value) if isinstance(value, bool) else value
    if reuse not in ("auto", "off"):
        raise UserError(
            f"{value!r} is not a way to share contexts",
            fix="reuse=auto computes contexts that requests share once; reuse=off computes each request by itself",
            where="--model_args reuse",
        )
    return reuse
