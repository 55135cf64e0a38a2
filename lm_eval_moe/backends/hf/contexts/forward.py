"""The forward passes: over prefixes, and over rows behind them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import Cache, DynamicCache

from lm_eval_moe.backends.hf.caches import going_on_from, kept_in
from lm_eval_moe.backends.hf.contexts.attention import tree_attention
from lm_eval_moe.backends.hf.contexts.cells import Copies, fanned_out
from lm_eval_moe.backends.hf.contexts.head import logits_at
from lm_eval_moe.backends.hf.contexts.prefix import forked, in_front

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.backends.hf.contexts.planning import Group
    from lm_eval_moe.backends.hf.contexts.tree import TreeBatch
    from lm_eval_moe.recording.token_rows import Indices

__all__ = ["cache_of_prefixes", "read_rows"]


def cache_of_prefixes(model: Any, tokens: Indices, copies: Copies, device: torch.device, *, forks: bool) -> Cache:
    """Return what a model keeps of prefixes.

    Args:
        model: The model.
        tokens: ``[G, P]`` the prefixes.
        copies: What becomes of them.
        device: Where inputs go.
        forks: Whether the cache is one of the model's own; otherwise it has keys and values, all of them, whatever
            windows the model's layers have.
    """
    inputs = torch.from_numpy(tokens).to(device).repeat(copies.given_count, 1)
    last = torch.tensor([tokens.shape[1] - 1], device=device)
    with fanned_out(copies, len(tokens)), logits_at(model, last):
        begun = {} if forks else going_on_from(model, DynamicCache())
        cache = kept_in(model(inputs, use_cache=True, **begun))
    if not isinstance(cache, Cache):
        raise TypeError(f"its cache is a {type(cache).__name__}, not one of transformers' own")
    return cache


def read_rows(
    model: Any,
    batch: TreeBatch,
    group: Group,
    cache: Cache | None,
    copies: Copies,
    device: torch.device,
    *,
    forks: bool,
) -> Tensor:
    """Return the logits after which something is scored.

    Args:
        model: The model.
        batch: B rows of T tokens.
        group: Has P tokens in front of them.
        cache: What the model keeps of its prefixes; None where there are none.
        copies: What becomes of each row.
        device: Where inputs go.
        forks: Whether each row continues from its own cache, as the model does when it generates; otherwise rows
            are trees behind the same keys and values.

    Returns:
        ``[C, S, V]``.

    Raises:
        ValueError: The model returns something else, or keeps more of a prefix than keys and values of it.
    """
    rows, width = batch.tokens.shape

    def on_device(array: Indices) -> Tensor:
        return torch.from_numpy(array).to(device).repeat(copies.given_count, 1)

    places = batch.places + rows * width * np.arange(copies.count)[:, None]
    more: dict[str, Any] = {"use_cache": cache is not None}
    attending: AbstractContextManager[None] = nullcontext()
    if cache is not None and forks:
        number = np.arange(copies.given_count)[:, None] * len(group.fronts) + np.array(batch.fronts)
        more |= going_on_from(model, forked(cache, torch.from_numpy(number.ravel()).to(device)))
    elif cache is not None:
        more |= going_on_from(model, in_front(cache))
    if not forks:
        position = on_device(batch.position)
        attending = tree_attention(position, on_device(batch.until), group.prefix)
        # Says nothing, and keeps models from taking places that start over for sequences of their own.
        mask = torch.ones(rows * copies.given_count, group.prefix + width, dtype=torch.long, device=device)
        more |= {"position_ids": position, "attention_mask": mask}
    with attending, fanned_out(copies, rows), logits_at(model, torch.from_numpy(places.ravel()).to(device)):
        logits: Tensor = model(on_device(batch.tokens), **more).logits
    if logits.shape[:2] != (1, places.size):
        raise ValueError(f"it returns logits of shape {tuple(logits.shape)} for {places.size} places")
    return logits.view(*places.shape, -1)
