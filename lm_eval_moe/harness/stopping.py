"""Where lm-eval's ``hf`` makes what ends a call of ``generate``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from lm_eval.models import huggingface

from lm_eval_moe.replacing import replaced

__all__ = ["stopping_by"]


@contextmanager
def stopping_by(criterion: Any, looked_for: Collection[str]) -> Iterator[None]:
    """Let ``generate`` ask a criterion after each token inside the ``with`` block.

    Args:
        criterion: What is asked.
        looked_for: The stop strings that lm-eval goes on looking for: it decodes the last tokens of all rows for each,
            and ends a batch once all rows have had the same one.
    """
    stock = huggingface.stop_sequences_criteria

    def criteria(tokenizer: Any, stop: list[str], *args: Any) -> Any:
        strings = [string for string in stop if string in looked_for]
        return type(found := stock(tokenizer, strings, *args))([*found, criterion])

    with replaced(huggingface, "stop_sequences_criteria", criteria):
        yield
