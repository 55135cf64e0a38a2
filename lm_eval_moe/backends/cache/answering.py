"""Requests are answered block by block: a block that is on disk is read, any other is computed and kept.

Whole blocks, not single requests, since the last bits of an answer depend on what shares its batch: blocks follow the
order in which all requests would run, whatever is on disk, so that a run that was cut off ends with the very results of
one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.cache.store import ResponseCache, StoredAnswer
from lm_eval_moe.recording import RoutingRecord

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["answers_by_block"]


def answers_by_block(
    cache: ResponseCache,
    rows: Sequence[Sequence[int]],
    keys: Sequence[bytes],
    size: int,
    compute: Callable[[list[int]], Sequence[StoredAnswer]],
    recall: Callable[[int, RoutingRecord], None],
    bar: tqdm[Any],
) -> list[Any]:
    """Return the answers of requests, from a cache where it has them.

    Args:
        cache: The cache.
        rows: In running order, each the indices of the requests that it serves.
        keys: Of all requests.
        size: Rows of a block.
        compute: Runs the requests of some indices; returns their answers and records.
        recall: Takes the record of a request that was not run.
        bar: Counts requests; what computes them may let it continue meanwhile.
    """
    answers: dict[int, Any] = {}
    before = bar.n
    for start in range(0, len(rows), size):
        block = [index for row in rows[start : start + size] for index in row]
        cached = cache.get([keys[index] for index in block])
        if all(keys[index] in cached for index in block):
            cache.hits += len(block)
            entries: Sequence[StoredAnswer] = [cached[keys[index]] for index in block]
            for index, entry in zip(block, entries, strict=True):
                if entry.record is not None:
                    recall(index, entry.record)
        else:
            cache.misses += len(block)
            entries = compute(block)
            cache.put({keys[index]: entry for index, entry in zip(block, entries, strict=True)})
        answers.update((index, entry.answer) for index, entry in zip(block, entries, strict=True))
        bar.update(before + len(answers) - bar.n)
    return [answers[index] for index in range(len(keys))]
