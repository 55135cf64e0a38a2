"""Let a token see what its sequence has before it, and nothing else, whatever kind of attention asks.

Models make their masks by functions of (row, head, query, key) that tell what sees what by columns: causal, within a
window, within a chunk. Where columns are not places in a sequence, they are asked by places instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from lm_eval_moe.replacing import Changeable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["attention_by_place", "tree_attention"]

_MASKS = [Changeable(ALL_MASK_ATTENTION_FUNCTIONS, name) for name in ("eager", "sdpa")]
_Sees = Callable[[Any, Any, Any, Any], Any]


def tree_attention(position: Tensor, until: Tensor, prefix: int) -> AbstractContextManager[None]:
    """Let masks be those of tree rows inside the ``with`` block.

    Args:
        position: ``[B, T]`` the place of each token in its sequence.
        until: ``[B, T]`` the column up to which (exclusive) tokens see it.
        prefix: Keys in front of every row that all of it sees, at the places from 0.
    """

    def of_tree(sees: _Sees) -> _Sees:
        def tree(row: Any, head: Any, query: Any, key: Any) -> Any:
            query_column, key_column = query - prefix, key - prefix
            inside = key_column.clamp(min=0)
            place = position[row, inside].where(key_column >= 0, key)
            follows = (key_column < 0) | ((key_column <= query_column) & (query_column < until[row, inside]))
            # Padding sees itself: a row of a mask without anything makes numbers that are none.
            return (sees(row, head, position[row, query_column], place) & follows) | (key_column == query_column)

        return tree

    return _masks(of_tree, attention_mask=None, allow_is_causal_skip=False)


def attention_by_place(position: Tensor) -> AbstractContextManager[None]:
    """Let masks of rows with padding between their tokens be those of the tokens alone inside the ``with`` block.

    Args:
        position: ``[B, W]`` the place of each token of the first W columns; those behind them follow the last.
    """
    width = position.shape[1]

    def by_place(sees: _Sees) -> _Sees:
        def place(row: Any, column: Any) -> Any:
            return position[row, column.clamp(max=width - 1)] + (column - (width - 1)).clamp(min=0)

        return lambda row, head, query, key: sees(row, head, place(row, query), place(row, key)) & (key <= query)

    return _masks(by_place)


@contextmanager
def _masks(change: Callable[[_Sees], _Sees], **extra: Any) -> Iterator[None]:
    """Change the functions that tell what sees what, and further arguments of what makes masks of them."""

    def masking(original: Callable[..., Any]) -> Callable[..., Any]:
        def mask(*args: Any, mask_function: _Sees, **kwargs: Any) -> Any:
            return original(*args, mask_function=change(mask_function), **{**kwargs, **extra})

        return mask

    with ExitStack() as stack:
        for function in _MASKS:
            stack.enter_context(function.changed(masking))
        yield
