"""Keys and values of a prefix that many rows have in front, computed once."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Cache

__all__ = ["forked", "in_front", "repeated"]


class _InFront(DynamicLayer):
    """One layer's keys and values of prefixes ``[C, heads, P, width]``, each in front of as many rows as the others.

    Nothing of a row is kept, so that the same layer is in front of the next rows.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the keys and values ``[C x rows, heads, P + T, width]`` that rows see."""
        return _joined(self.keys, key_states), _joined(self.values, value_states)


def _joined(prefix: Tensor, rows: Tensor) -> Tensor:
    copies = len(rows) // len(prefix)
    wide = prefix[:, None].expand(-1, copies, *prefix.shape[1:])
    joined = rows.new_empty(*rows.shape[:-2], prefix.shape[-2] + rows.shape[-2], rows.shape[-1])
    joined[..., : prefix.shape[-2], :].view(len(prefix), copies, *prefix.shape[1:]).copy_(wide)
    joined[..., prefix.shape[-2] :, :] = rows
    return joined


def in_front(cache: Cache) -> DynamicCache:
    """Return what puts the keys and values of a filled cache in front of rows.

    Raises:
        ValueError: A layer keeps something else than keys and values.
    """
    return _cache_of([_InFront(layer.keys, layer.values) for layer in _plain_layers(cache)])


def forked(cache: Cache, rows: Tensor) -> Cache:
    """Return a cache that continues from that of some rows ``[B]`` of a batch, whatever a model keeps of a text."""
    copied = copy.deepcopy(cache)  # states are written over where they are
    copied.reorder_cache(rows)
    return copied


def repeated(cache: Cache, rows: int) -> DynamicCache:
    """Return a cache that continues from the keys and values of one row in so many; nothing is copied before it does.

    Raises:
        ValueError: A layer keeps something else than keys and values.
    """
    layers = []
    for layer in _plain_layers(cache):
        repeated_layer = DynamicLayer()
        repeated_layer.lazy_initialization(layer.keys, layer.values)
        repeated_layer.keys, repeated_layer.values = (
            tensor.expand(rows, *tensor.shape[1:]) for tensor in (layer.keys, layer.values)
        )
        layers.append(repeated_layer)
    return _cache_of(layers)


def _plain_layers(cache: Cache) -> list[DynamicLayer]:
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        kinds = sorted({type(layer).__name__ for layer in cache.layers} - {"DynamicLayer"})
        raise ValueError(f"its cache holds more than keys and values ({', '.join(kinds)})")
    return list(cache.layers)


def _cache_of(layers: list[DynamicLayer]) -> DynamicCache:
    cache = DynamicCache()
    cache.layers = layers
    cache.layer_class_to_replicate = None
    return cache
