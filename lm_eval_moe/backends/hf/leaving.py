"""A batch ends with its last row, and rows that have ended leave it as soon as they are half of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, StoppingCriteria, cache_utils

from lm_eval_moe.backends.hf.caches import generating_from, kept_in
from lm_eval_moe.backends.hf.contexts import attention_by_place

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.recording import GenerationTracker

__all__ = ["EndOfRows", "divides", "generated"]


class EndOfRows(StoppingCriteria):
    """Reads each token that is generated, and may end a call of ``generate`` where rows have ended.

    Args:
        tracker: Knows which rows have.
        ends: Whether it ends anything.
        halves: Whether it does so once half of the rows have ended; otherwise it waits for all of them.

    Attributes:
        left: The rows that have not ended, by their places in the batch.
        over: Whether it ended the call.
    """

    def __init__(self, tracker: GenerationTracker, *, ends: bool, halves: bool) -> None:
        self._tracker, self._ends, self._halves = tracker, ends, halves
        self.left: list[int] = []
        self.over = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """Return for each row whether the call is over: for all or for none."""
        ended = self._tracker.read(input_ids[:, -1].tolist())
        self.left = [place for place, over in enumerate(ended) if not over]
        self.over = self._ends and len(self.left) <= (len(ended) // 2 if self._halves else 0)
        return torch.full((len(ended),), self.over, device=input_ids.device)


def divides(cache: Any) -> bool:
    """Return whether rows of a cache can be taken out of it: whether it has none but transformers' own layers."""
    is_plain = type(cache) is DynamicCache
    return is_plain and all(type(layer).__module__ == cache_utils.__name__ for layer in cache.layers)


def generated(
    call: Callable[..., Any],
    context: Tensor,
    mask: Tensor,
    position: Tensor | None,
    end: EndOfRows,
    tracker: GenerationTracker,
    *,
    padding: int,
    **more: Any,
) -> tuple[Tensor, Any]:
    """Return prompts ``[B, W]`` with what was generated behind them, padded on the right, and the last cache.

    Args:
        call: Generates from prompts, their attention mask, and what else is given.
        context: The prompts.
        mask: ``[B, W]`` their attention mask.
        position: ``[B, W]`` the place of each token in its sequence, where there is padding between tokens.
        end: Ends a call.
        tracker: Is notified which rows continue.
        padding: The token of the padding.
        more: What else ``call`` takes.
    """
    rows = list(range(len(context)))
    texts: dict[int, Tensor] = {}
    while True:
        with nullcontext() if position is None else attention_by_place(position):
            output = call(context, attention_mask=mask, return_dict_in_generate=True, **more)
        context, cache, active = output.sequences, kept_in(output), end.left
        texts |= dict(zip(rows, context, strict=True))
        if not end.over or not active or context.shape[1] >= more["max_length"]:
            break
        tracker.keep(active)
        rows = [rows[place] for place in active]
        mask = pad(mask, (0, context.shape[1] - mask.shape[1]), value=1)[active]
        position = None if position is None else position[active]
        context = context[active]
        cache.reorder_cache(torch.tensor(active, device=context.device))
        more |= generating_from(cache)
    width = max(map(len, texts.values()))
    return torch.stack([pad(texts[row], (0, width - len(texts[row])), value=padding) for row in sorted(texts)]), cache
