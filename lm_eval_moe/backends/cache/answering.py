"""The way of an `HFMoE` model's requests through its response cache, if it has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lm_eval_moe.backends.cache.blocks import Blocks
from lm_eval_moe.capture import RoutingRecord, RowUse

if TYPE_CHECKING:
    from lm_eval_moe.backends.hf.model import HFMoE

__all__ = ["answered"]


def answered(
    lm: HFMoE,
    requests: Sequence[int],
    order: Callable[[Sequence[int]], Sequence[Sequence[int]]],
    depends_on: Callable[[int], Sequence[Any]],
    use: Callable[[int], RowUse],
    run: Callable[[Sequence[int]], Sequence[Any]],
    *,
    quiet: bool,
    sampled: bool = False,
) -> list[Any]:
    """Return the answers of requests, from the model's cache where it has them.

    Args:
        lm: The model.
        requests: Their numbers, by which the functions below know them.
        order: Returns the rows of some requests in running order, each the positions of those that it serves.
        depends_on: Returns what a request's answer depends on besides the model; JSON-ready.
        use: Returns the row use of a request, by which its record is found.
        run: Runs some requests, and returns their answers in that order.
        quiet: Whether to show no progress bar.
        sampled: Whether answers are drawn at random: they then belong to the run's seeds, too, and a block has a seed
            of its own.
    """
    if lm.response_cache is None:
        return list(run(requests))
    blocks = Blocks(lm.response_cache, lm.answer_identity(sampled=sampled), lm.batch_size)
    keys = [blocks.key(*depends_on(number)) for number in requests]

    def compute(positions: list[int]) -> tuple[Sequence[Any], Sequence[RoutingRecord | None]]:
        lm.parts = {}
        if sampled:
            torch.manual_seed(int.from_bytes(keys[positions[0]][:7], "big"))
        numbers = [requests[position] for position in positions]
        return run(numbers), [_part(lm, use(number)) for number in numbers]

    def recall(position: int, record: RoutingRecord) -> None:
        key = use(requests[position]).key
        if key is not None:
            lm.records.add(key, record)

    answers = blocks.answers(order(requests), keys, compute, recall, quiet=quiet)
    return [answers[index] for index in range(len(requests))]


def _part(lm: HFMoE, use: RowUse) -> RoutingRecord | None:
    return lm.parts.get((use.key, use.window)) if use.key is not None else None
