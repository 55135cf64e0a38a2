"""Shared contexts: what several requests begin with is computed once, their ends side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lm_eval_moe.backends.hf.contexts.attention import attention_by_place
from lm_eval_moe.backends.hf.contexts.prompts import BehindFront, SharedFront, all_begin_with, prompts_by_front
from lm_eval_moe.backends.hf.contexts.proof import ReuseProof
from lm_eval_moe.backends.hf.contexts.scoring import SharedRows

if TYPE_CHECKING:
    from lm_eval_moe.backends.hf.listening import Listening
    from lm_eval_moe.backends.requests import TokenRequests

__all__ = [
    "BehindFront",
    "ReuseProof",
    "SharedFront",
    "SharedRows",
    "all_begin_with",
    "attention_by_place",
    "prompts_by_front",
    "shared_rows",
]


def shared_rows(lm: Listening, token_requests: TokenRequests, proof: ReuseProof) -> SharedRows | None:
    """Return requests planned as rows that share contexts; None where they have to run one by one.

    Args:
        lm: The model.
        token_requests: The requests.
        proof: What has been shown of the model; more is shown where these requests need it.
    """
    if (
        proof.refused is not None
        or not token_requests.requests
        or not all(request[2] for request in token_requests.requests)
    ):
        return None
    planned, plans = SharedRows(lm, token_requests, forks=proof.forks), len(lm._plans)
    while (group := proof.lacks(planned.groups, planned.paths, plans=plans)) is not None:
        if not proof.is_worth_it(group, planned.paths):
            return None
        proof.extend(lm, group, planned.paths, plans=plans)
        if proof.forks != planned.forks:
            planned = SharedRows(lm, token_requests, forks=proof.forks)
    if proof.refused is not None or (proof.forks and not any(group.prefix for group in planned.groups)):
        return None
    planned.layers = proof.layers
    return planned
