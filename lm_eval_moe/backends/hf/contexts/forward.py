"""The forward passes: over a prefix, and over tree rows behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import DynamicCache

from lm_eval_moe.backends.hf.contexts.attention import tree_attention
from lm_eval_moe.backends.hf.contexts.cells import Copies, fanned_out
from lm_eval_moe.backends.hf.contexts.head import logits_at
from lm_eval_moe.backends.hf.contexts.prefix import in_front

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.backends.hf.contexts.tree import TreeBatch
    from lm_eval_moe.capture.token_rows import Indices

__all__ = ["keys_of_prefix", "read_rows"]


def keys_of_prefix(model: Any, tokens: Indices, copies: Copies, device: torch.device) -> DynamicCache:
    """Return the keys and values of a prefix.

    Args:
        model: The model.
        tokens: ``[P]`` the prefix.
        copies: What becomes of it.
        device: Where inputs go.
    """
    cache = DynamicCache()  # which keeps everything, whatever windows the model's layers have
    inputs = torch.from_numpy(tokens).to(device).expand(copies.given, -1)
    last = torch.tensor([len(tokens) - 1], device=device)
    with fanned_out(copies, 1), logits_at(model, last):
        model(inputs, past_key_values=cache, use_cache=True)
    return cache


def read_rows(
    model: Any, batch: TreeBatch, prefix: int, cache: DynamicCache | None, copies: Copies, device: torch.device
) -> Tensor:
    """Return the logits after which something is scored.

    Args:
        model: The model.
        batch: B rows of T tokens.
        prefix: Tokens in front of them, P.
        cache: Its keys and values; None where there is no prefix.
        copies: What becomes of each row.
        device: Where inputs go.

    Returns:
        ``[C, S, V]``.

    Raises:
        ValueError: The model returns something else, or keeps more of a prefix than keys and values.
    """
    rows, width = batch.tokens.shape

    def given(array: Indices) -> Tensor:
        return torch.from_numpy(array).to(device).repeat(copies.given, 1)

    places = batch.places + rows * width * np.arange(copies.count)[:, None]
    position, until = given(batch.position), given(batch.until)
    with (
        tree_attention(position, until, prefix),
        fanned_out(copies, rows),
        logits_at(model, torch.from_numpy(places.ravel()).to(device)),
    ):
        logits: Tensor = model(
            given(batch.tokens),
            # Says nothing, and keeps models from taking places that begin anew for sequences of their own.
            attention_mask=torch.ones(rows * copies.given, prefix + width, dtype=torch.long, device=device),
            position_ids=position,
            past_key_values=None if cache is None else in_front(cache),
            use_cache=cache is not None,
        ).logits
    if logits.shape[:2] != (1, places.size):
        raise ValueError(f"it returns logits of shape {tuple(logits.shape)} for {places.size} places")
    return logits.view(*places.shape, -1)
