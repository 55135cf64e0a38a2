"""When a generated sequence has ended: the rule that both the answer's text and the routing record follow."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["StopRule"]

# A decoded tail may differ from the same tokens decoded in place at its first few tokens only.
_MARGIN = 8


class StopRule:
    """Tells whether the last of a row's generated tokens ends it.

    Args:
        tokenizer: The model's tokenizer.
        strings: lm-eval's ``until`` strings, the end-of-sequence string among them.
        token_ids: Tokens at which ``generate`` itself ends a row.
    """

    def __init__(self, tokenizer: Any, strings: Sequence[str], token_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._strings = [string for string in strings if string]
        self._ids = frozenset(token_ids)
        self._special = frozenset(tokenizer.all_special_ids)
        # A token adds at least one byte to the text, so that a stop string lies within as many tokens.
        self._tail = max((len(string.encode()) for string in self._strings), default=0) + _MARGIN

    def __call__(self, generated: Sequence[int]) -> bool:
        """Whether the row ends with the last of ``generated``, all its tokens so far."""
        if generated[-1] in self._ids:
            return True
        tail = list(generated[-self._tail :])
        # lm-eval cuts the text without special tokens, but stops on the text with them.
        readings = (False,) if self._special.isdisjoint(tail) else (True, False)
        texts = [self._tokenizer.decode(tail, skip_special_tokens=skip) for skip in readings]
        return any(string in text for text in texts for string in self._strings)
