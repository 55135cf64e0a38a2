"""The order in which lm-eval will run requests, asked of its own machinery."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from lm_eval_moe.backends.requests import TokenRequest
from lm_eval_moe.harness.requests import running_order

__all__ = ["generation_order", "likelihood_order", "rounds_without_conflict"]


def likelihood_order(requests: Sequence[TokenRequest], *, grouped: bool) -> list[list[int]]:
    """Return the rows in running order, each as the indices of the requests that it serves.

    The first index of a row is the request whose tokens the row holds.

    Args:
        requests: The requests as given to ``_loglikelihood_tokens``.
        grouped: Whether requests that differ in their last token only share a row (``logits_cache``).
    """

    def sort_key(request: TokenRequest) -> Any:
        tokens = request[1] + request[2]
        return -len(tokens), tuple(tokens)

    def shared(request: TokenRequest) -> list[int]:
        return request[1] + request[2][:-1]

    numbered = [(index, context, continuation) for index, (_, context, continuation) in enumerate(requests)]
    members: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, context, continuation in numbered:
        members[tuple(context + continuation[:-1])].append(index)
    rows = []
    for request in running_order(numbered, sort_key, "contexts" if grouped else None, shared):
        index = request[0]
        group = members[tuple(shared(request))] if grouped else []
        rows.append([index, *(member for member in group if member != index)])
    return rows


def generation_order(arguments: Sequence[tuple[str, dict[str, Any]]], encode: Callable[[str], list[int]]) -> list[int]:
    """Return the indices of ``generate_until`` requests, given as ``(prompt, gen_kwargs)``, in running order."""
    numbered = [(prompt, kwargs, index) for index, (prompt, kwargs) in enumerate(arguments)]

    def sort_key(request: Any) -> Any:
        return -len(encode(request[0])), request[0]

    return [request[2] for request in running_order(numbered, sort_key, "gen_kwargs", lambda request: request[1])]


def rounds_without_conflict(
    requests: Sequence[TokenRequest], steered_as: Callable[[int], Hashable]
) -> Sequence[Sequence[int]]:
    """Split requests into rounds in which a shared row is steered in the same way for all that it serves.

    Nearly always one round: only requests of the same tokens but another language, or another prompt boundary where
    that matters, have to run apart.
    """
    everything = range(len(requests))
    if len({steered_as(index) for index in everything}) <= 1:
        return [everything]
    rounds: list[list[int]] = []
    steering_by_round: list[dict[tuple[int, ...], Hashable]] = []
    for index, (_, context, continuation) in enumerate(requests):
        row, steering = tuple(context + continuation[:-1]), steered_as(index)
        number = next(
            (n for n, rows in enumerate(steering_by_round) if rows.get(row, steering) == steering),
            len(steering_by_round),
        )
        if number == len(steering_by_round):
            rounds.append([])
            steering_by_round.append({})
        rounds[number].append(index)
        steering_by_round[number][row] = steering
    return rounds
