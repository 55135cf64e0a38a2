"""Requests are answered block by block: a block that is on disk is read, any other is computed and kept.

Whole blocks, not single requests, since the last bits of an answer depend on what shares its batch: blocks follow the
order in which all requests would run, whatever is on disk, so that a run that was cut off ends with the very results of
one that was not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from lm_eval_moe.backends.cache.store import Entry, ResponseCache
from lm_eval_moe.capture import RoutingRecord

__all__ = ["Blocks"]

_BATCHES = 4
_ROWS = 64
"""Rows of a block where the batch size is not known beforehand."""


class Blocks:
    """The blocks of one list of requests.

    Args:
        cache: Where the answers are kept.
        identity: Hash of what they belong to besides the request.
        batch_size: Rows of a batch; ``auto`` where it is found by trying.
    """

    def __init__(self, cache: ResponseCache, identity: str, batch_size: int | str) -> None:
        self._cache = cache
        self._identity = identity
        self._rows = _BATCHES * batch_size if isinstance(batch_size, int) and batch_size > 0 else _ROWS

    def key(self, *request: Any) -> bytes:
        """Return the key of a request, given by whatever JSON can hold."""
        text = json.dumps([self._identity, *request], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).digest()

    def answers(
        self,
        order: Sequence[Sequence[int]],
        keys: Sequence[bytes],
        compute: Callable[[list[int]], tuple[Sequence[Any], Sequence[RoutingRecord | None]]],
        recall: Callable[[int, RoutingRecord], None],
        *,
        quiet: bool,
    ) -> dict[int, Any]:
        """Return all answers by index.

        Args:
            order: The rows in running order, each the indices of the requests that it serves.
            keys: Of all requests.
            compute: Runs the requests of some indices; returns their answers and records.
            recall: Takes the record of a request that was not run.
            quiet: Whether to show no progress bar.
        """
        answers: dict[int, Any] = {}
        with tqdm(total=len(keys), desc="Answering with the response cache", disable=quiet) as bar:
            for block in self._blocks(order):
                found = self._cache.get([keys[index] for index in block])
                if all(keys[index] in found for index in block):
                    self._cache.hits += len(block)
                    for index in block:
                        entry = found[keys[index]]
                        answers[index] = entry.answer
                        if entry.record is not None:
                            recall(index, entry.record)
                else:
                    self._cache.misses += len(block)
                    computed, records = compute(block)
                    self._cache.put(
                        {
                            keys[index]: Entry(answer, record)
                            for index, answer, record in zip(block, computed, records, strict=True)
                        }
                    )
                    answers.update(zip(block, computed, strict=True))
                bar.update(len(block))
        return answers

    def _blocks(self, order: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        for start in range(0, len(order), self._rows):
            yield [index for row in order[start : start + self._rows] for index in row]
