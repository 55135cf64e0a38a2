"""Prompts that begin with the same tokens: these are computed once, and `generate` continues from there."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lm_eval_moe.backends.hf.contexts.cells import Copies
from lm_eval_moe.backends.hf.contexts.forward import cache_of_prefixes
from lm_eval_moe.backends.hf.contexts.planning import Path, grouped
from lm_eval_moe.backends.hf.contexts.prefix import repeated

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Cache, DynamicCache

    from lm_eval_moe.recording.token_rows import Indices

__all__ = ["BehindFront", "SharedFront", "all_begin_with", "prompts_by_front"]


def prompts_by_front(prompts: Sequence[Sequence[int]], keys: Sequence[Hashable]) -> list[tuple[Indices, list[int]]]:
    """Return prompts that begin with the same tokens: what they begin with, which may be nothing, and their numbers.

    Args:
        prompts: Their tokens; those without any are put with others, whose padding they need.
        keys: What steers each; only prompts of the same key share anything.
    """
    paths = [Path.of(key, tokens, 1, ()) for key, tokens in zip(keys, prompts, strict=True)]
    some = [number for number, path in enumerate(paths) if len(path)]
    fronts = []
    for group in grouped([paths[number] for number in some], rows="single"):
        numbers = sorted(some[number] for row in group.rows for number in row.requests)
        fronts.append((paths[numbers[0]].tokens[: group.prefix], numbers))
    empty = [number for number, path in enumerate(paths) if not len(path)]
    if not fronts:
        return [(np.array([], dtype=np.int64), empty)]
    front, numbers = fronts[-1]  # that without a front, if there is one
    return [*fronts[:-1], (front, sorted([*numbers, *empty]))]


@dataclass(frozen=True)
class BehindFront:
    """A batch of left-padded prompts whose padding has moved behind what they have in front.

    Attributes:
        tokens: ``[B, W]`` token ids, as many columns as before.
        mask: ``[B, W]`` the attention mask.
        own: ``[B, W - P]`` the part of the mask behind the front.
        cache: The keys and values of the front, for every row.
    """

    tokens: Tensor
    mask: Tensor
    own: Tensor
    cache: DynamicCache

    @property
    def position(self) -> Tensor:
        """``[B, W]`` the place of each token in its sequence: what sees what goes by it, not by the padding."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)


def all_begin_with(tokens: Indices, context: Tensor, mask: Tensor) -> bool:
    """Return whether left-padded prompts ``[B, W]`` begin with tokens ``[P]``, and continue."""
    size, width = len(tokens), context.shape[1]
    padding = width - mask.sum(-1)
    if int(padding.max()) + size >= width:
        return False
    columns = padding[:, None] + torch.arange(size, device=context.device)
    return bool((context.gather(1, columns) == torch.from_numpy(tokens).to(context.device)).all())


@dataclass(frozen=True)
class SharedFront:
    """What prompts have in front, computed.

    Attributes:
        size: Its tokens, P.
        cache: Their keys and values.
    """

    size: int
    cache: Cache

    @classmethod
    def of(cls, model: Any, tokens: Indices, device: torch.device) -> SharedFront:
        """Compute the front of tokens ``[P]``."""
        return cls(len(tokens), cache_of_prefixes(model, tokens[None], Copies(), device, forks=False))

    def before(self, context: Tensor, mask: Tensor) -> BehindFront:
        """Return left-padded prompts ``[B, W]`` that begin with it, behind its keys and values."""
        rows, width = context.shape
        padding = width - mask.sum(-1, keepdim=True)
        columns = torch.arange(width, device=context.device).expand(rows, -1)
        # Column c takes what was at: the front behind the padding, then the padding, then the rest where it was.
        source = torch.where(columns < self.size, columns + padding, columns - self.size)
        source = torch.where(columns >= self.size + padding, columns, source)
        tokens, moved = context.gather(1, source), mask.gather(1, source)
        return BehindFront(tokens, moved, moved[:, self.size :], repeated(self.cache, rows))
