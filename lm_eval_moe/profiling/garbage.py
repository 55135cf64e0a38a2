"""Large arrays in cycles of few objects, given back at once.

Python looks for cycles when very many objects are new, however large they are: what single passes of a model leave of
their sums may then add up to more than the model.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["collecting"]


@contextmanager
def collecting() -> Iterator[Callable[[], object]]:
    """Yield a function that collects what has become garbage inside the ``with`` block.

    It takes about a millisecond: what is older than the block is not looked at.
    """
    gc.freeze()
    try:
        yield gc.collect
    finally:
        gc.unfreeze()
