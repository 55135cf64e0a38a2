"""Answers kept on disk together with their routing, so that a run that was cut off continues where it stopped.

An entry belongs to everything that determines it to the last bit: the identity of the model that answers (weights,
code, tokenizer, steering, what is captured, batch size, threads, versions) and the request. lm-eval's own cache knows
the request alone, and is neither read nor written.
"""

from __future__ import annotations

from lm_eval_moe.backends.cache.answering import answers_by_block
from lm_eval_moe.backends.cache.store import ResponseCache, StoredAnswer

__all__ = ["ResponseCache", "StoredAnswer", "answers_by_block"]
