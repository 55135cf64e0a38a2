"""What ``hf-moe`` cannot do without answering wrongly, and therefore refuses with a message."""

from __future__ import annotations

from lm_eval_moe.errors import UserError

__all__ = ["response_cache", "tensor_parallelism"]


def response_cache() -> UserError:
    """Return the error for lm-eval's response cache, which knows requests by their text alone."""
    return UserError(
        "lm-eval's response cache knows requests by their text alone: it would return the answers of another steering, "
        "and no routing would be captured",
        fix="leave out --use_cache with hf-moe",
        where="--use_cache",
    )


def tensor_parallelism() -> UserError:
    """Return the error for ``tp_plan``, under which each device numbers its own experts."""
    return UserError(
        "tensor parallelism renumbers the experts on every device, so that no device sees the routing as it is",
        fix="leave out tp_plan; use parallelize=True or device_map=auto for a model that needs several devices",
        where="--model_args tp_plan",
    )
