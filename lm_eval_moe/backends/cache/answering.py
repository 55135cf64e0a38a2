"""The way of a model's requests through its response cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lm_eval_moe.backends.cache.blocks import Blocks
from lm_eval_moe.capture import RoutingRecord, RowUse

if TYPE_CHECKING:
    from lm_eval_moe.backends.cache.store import ResponseCache
    from lm_eval_moe.backends.capturing import Captured

__all__ = ["answered"]


def answered(
    cache: ResponseCache,
    identity: str,
    batch_size: int | str,
    captured: Captured,
    requests: Sequence[int],
    order: Callable[[Sequence[int]], Sequence[Sequence[int]]],
    depends_on: Callable[[int], Sequence[Any]],
    use: Callable[[int], RowUse],
    run: Callable[[Sequence[int]], Sequence[Any]],
    *,
    quiet: bool,
    sampled: bool = False,
) -> list[Any]:
    """Return the answers of requests, from a cache where it has them.

    Args:
        cache: The cache.
        identity: Hash of what the answers belong to besides the request.
        batch_size: Rows of a batch; ``auto`` where it is found by trying.
        captured: Where the records of what runs are kept, and those of what does not run are added.
        requests: Their numbers, by which the functions below know them.
        order: Returns the rows of some requests in running order, each the positions of those that it serves.
        depends_on: Returns what a request's answer depends on besides the model; JSON-ready.
        use: Returns the row use of a request, by which its record is found.
        run: Runs some requests, and returns their answers in that order.
        quiet: Whether to show no progress bar.
        sampled: Whether answers are drawn at random: they then belong to the run's seeds, too, and a block has a seed
            of its own.
    """
    blocks = Blocks(cache, identity, batch_size)
    keys = [blocks.key(*depends_on(number)) for number in requests]

    def compute(positions: list[int]) -> tuple[Sequence[Any], Sequence[RoutingRecord | None]]:
        if sampled:
            import torch

            torch.manual_seed(int.from_bytes(keys[positions[0]][:7], "big"))
        numbers = [requests[position] for position in positions]
        with captured.noted() as noted:
            answers = run(numbers)
        uses = map(use, numbers)
        return answers, [noted.get((own.key, own.window)) if own.key is not None else None for own in uses]

    def recall(position: int, record: RoutingRecord) -> None:
        own = use(requests[position])
        if own.key is not None:
            captured.keep(own.key, own.window, record)

    answers = blocks.answers(order(requests), keys, compute, recall, quiet=quiet)
    return [answers[index] for index in range(len(requests))]
