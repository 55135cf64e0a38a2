"""The documents of a run: which item each is, and the requests that stand for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lm_eval_moe.recording import RequestKey

__all__ = ["Item", "ItemKey"]


class ItemKey(NamedTuple):
    """Names an item across languages: the benchmark with its variants, and the item's own key."""

    benchmark: str
    item: str


@dataclass(frozen=True, slots=True)
class Item:
    """A document of the run: which item it is, and the requests whose routing stands for it (one a repeat).

    ``texts`` are the hashes of its texts, where somebody asks for them.
    """

    key: ItemKey | None
    requests: tuple[RequestKey, ...]
    texts: tuple[str, ...] = ()
