"""What a model answered on a document, as far as its sample says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lm_eval_moe.results._json_lines import ABSENT, Columns
from lm_eval_moe.results.values import Metric

__all__ = ["KEYS", "Answer", "answers_in"]

KEYS = ("doc_id", "filter", "target", "filtered_resps", "arguments")
"""What is read of a sample."""

_LENGTHS = {"acc": None, "f1": None, "mcc": None, "acc_norm": len, "acc_bytes": lambda text: len(text.encode())}
"""Metrics of which it is known which choice they take for the answer: of the largest log-likelihood by that length."""


@dataclass(frozen=True)
class Answer:
    """One document's.

    Attributes:
        target: What would have been right; None where the sample does not say.
        given: What was answered: the generated text as the filter left it, or the choice that scored highest; None
            where the sample does not say.
    """

    target: str | None
    given: str | None


def answers_in(columns: Columns, metric: Metric, ids: Collection[int], delimiter: str) -> dict[int, Answer]:
    """Return the answers on some documents.

    Args:
        columns: The samples' values of `KEYS`.
        metric: Says which filter counts, and how choices are compared.
        ids: The documents' ``doc_id``.
        delimiter: What stands between a prompt and a choice, and belongs to neither.
    """
    answers = {}
    for doc_id, under, target, responses, arguments in zip(*(columns.values[key] for key in KEYS), strict=True):
        if doc_id in ids and under in (metric.filter, ABSENT):
            answers[doc_id] = _answer(target, responses, arguments, metric, delimiter)
    return answers


def _answer(target: Any, responses: Any, arguments: Any, metric: Metric, delimiter: str) -> Answer:
    target_text = None if target is ABSENT or target is None else str(target)
    rows = list(responses) if isinstance(responses, Sequence) and not isinstance(responses, str) else []
    if rows and isinstance(rows[0], str):
        return Answer(target_text, rows[0])
    pairs = _pairs(arguments)
    if len(rows) < 2 or len(pairs) != len(rows):
        return Answer(target_text, None)
    # Unconditional likelihoods, which a metric may ask for as well, have no prompt.
    scored = [(row, text) for row, (prompt, text) in zip(rows, pairs, strict=True) if prompt.strip()]
    choices = [text.removeprefix(delimiter) for _, text in scored]
    if len(set(choices)) < len(choices):  # the prompts differ instead
        choices = [f"choice {number}" for number in range(len(choices))]
    if target_text is not None and target_text.isdecimal() and int(target_text) < len(choices):
        target_text = choices[int(target_text)]
    if metric.name not in _LENGTHS or not choices:
        return Answer(target_text, None)
    length = _LENGTHS[metric.name]
    try:
        likelihoods = [
            float(row[0]) / ((length(text.removeprefix(delimiter)) if length else 0) or 1) for row, text in scored
        ]
    except (TypeError, ValueError, LookupError):
        return Answer(target_text, None)
    return Answer(target_text, choices[int(np.argmax(likelihoods))])


def _pairs(arguments: Any) -> list[tuple[str, str]]:
    """Return prompt and continuation of every request, as they are logged or in memory."""
    rows = arguments.values() if isinstance(arguments, Mapping) else arguments if isinstance(arguments, list) else ()
    pairs = [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in rows]
    return [(str(pair[0]), str(pair[1])) for pair in pairs if len(pair) == 2]
