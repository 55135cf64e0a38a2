"""Logits at a few places of a batch: the language model's head is given only the hidden states that are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["logits_at"]


@contextmanager
def logits_at(model: Any, places: Tensor) -> Iterator[None]:
    """Let the model return logits ``[1, S, V]`` at some places of the flat batch inside the ``with`` block.

    Args:
        model: The model, wrapped or not.
        places: ``[S]`` places in the flat batch.

    Raises:
        ValueError: The model says of no module that it is its head.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError("it does not say which module computes its logits")

    def select(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = args
        return hidden.flatten(0, -2)[places.to(hidden.device)][None], *rest

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
