"""Where lm-eval's ``hf`` makes what ends a call of ``generate``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any

from lm_eval.models import huggingface

from lm_eval_moe.replacing import Changeable

__all__ = ["stopping_by"]


_CRITERIA = Changeable(vars(huggingface), "stop_sequences_criteria")


def stopping_by(criterion: Any, looked_for: Collection[str]) -> AbstractContextManager[None]:
    """Let ``generate`` ask a criterion after each token inside the ``with`` block.

    Args:
        criterion: What is asked.
        looked_for: The stop strings that lm-eval keeps looking for: it decodes the last tokens of all rows for each,
            and ends a batch once all rows have had the same one.
    """

    def with_it(stock: Callable[..., Any]) -> Callable[..., Any]:
        def criteria(tokenizer: Any, stop: list[str], *args: Any) -> Any:
            stock_criteria = stock(tokenizer, [string for string in stop if string in looked_for], *args)
            return type(stock_criteria)([*stock_criteria, criterion])

        return criteria

    return _CRITERIA.changed(with_it)
