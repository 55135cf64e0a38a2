"""Where lm-eval's reading of a generated text begins and ends: after the thinking, before the first stop string.

lm-eval decodes all that a row has generated, special tokens left out. Of that it scores what comes after the last
end of thinking, without white space in front, up to the first stop string. A row of a batch continues beyond a stop
string until the whole batch is done, so that a stop string within the thinking, or a special token among the stop
strings, does not end what is scored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["RowReading", "StopRule", "is_left_out"]

# A decoded tail may differ from the same tokens decoded in place at its first few tokens only.
_MARGIN = 8

# By tokenizer and token: the text that two of the token make.
_ADDED: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()


def is_left_out(tokenizer: Any, text: str) -> bool:
    """Return whether a text is special to the tokenizer, and cannot be seen in what lm-eval decodes."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    full_text, visible_text = (tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True))
    return text.strip() in full_text and text.strip() not in visible_text


class StopRule:
    """What ends the thinking and the answer of every row of a batch.

    Args:
        tokenizer: The model's tokenizer.
        strings: lm-eval's ``until`` strings, the end-of-sequence string among them.
        token_ids: Tokens at which ``generate`` itself ends a row.
        think_end: The text or the token that ends the thinking; None for a model that does not think.
    """

    def __init__(
        self,
        tokenizer: Any,
        strings: Sequence[str],
        token_ids: Collection[int],
        think_end: str | int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._added = _ADDED.setdefault(tokenizer, {})
        self.strings = [string for string in strings if string]
        self.token_ids = frozenset(token_ids)
        self.think_end = None if think_end == "" else think_end  # which lm-eval passes over
        added_tokens = getattr(tokenizer, "added_tokens_decoder", {})
        self.unseen = {*tokenizer.all_special_ids, *(number for number, token in added_tokens.items() if token.special)}
        # A token adds at least one byte to the text, so that a string lies within as many tokens.
        sought = [*self.strings, self.think_end] if isinstance(self.think_end, str) else self.strings
        self.window = max((len(string.encode()) for string in sought), default=0) + _MARGIN

    @property
    def thinks(self) -> bool:
        """Whether the model may think before it answers."""
        return self.think_end is not None

    def is_unread(self, string: str) -> bool:
        """Whether a stop string cannot be seen in a text, and is not a token that ends a row either."""
        if not is_left_out(self._tokenizer, string):
            return False
        return not self.token_ids.intersection(self._tokenizer.encode(string, add_special_tokens=False))

    def may_complete(self, token: int) -> bool:
        """Whether a stop string may end within what a token adds to a text.

        It has to hold the string's last character, or a part of a character's bytes. Twice the token, since tokenizers
        may leave out the space that a text begins with.
        """
        text = self._added.get(token)
        if text is None:
            text = self._added[token] = self.decode([token, token])
        return "\N{REPLACEMENT CHARACTER}" in text or any(string[-1] in text for string in self.strings)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return tokens as lm-eval reads them."""
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class RowReading:
    """Follows one row token by token.

    Attributes:
        thinking: Generated tokens up to and including the last end of thinking; 0 as long as there is none.
        stopped: Whether the text after the thinking holds a stop string. What follows is scored only if the thinking
            ends once more.
        ended: Whether nothing that follows can be scored.
    """

    def __init__(self, rule: StopRule) -> None:
        self.thinking = 0
        self.stopped = self.ended = False
        self._rule = rule
        self._tokens: list[int] = []
        self._seen: list[int] = []  # the positions of tokens that are not special
        # The answer's text is that of the tokens from `_start`, what ends the thinking before it included; what may
        # have to be cut off its beginning lies before `_settled`.
        self._start = self._settled = 0

    def add(self, token: int) -> None:
        """Read the next generated token; ``thinking`` is the number of tokens read where it ends the thinking."""
        rule = self._rule
        self._tokens.append(token)
        if token not in rule.unseen:
            self._seen.append(len(self._tokens) - 1)
        if rule.thinks:
            tail = self._tail
            if self._thinking_ends(tail):
                self.thinking = len(self._tokens)
                self.stopped = False
                self._start = tail if isinstance(rule.think_end, str) else self.thinking
                self._settled = self.thinking
        if not self.stopped and (rule.thinks or rule.may_complete(token)):
            self.stopped = self._stops(self._tail)
        self.ended = token in rule.token_ids or (self.stopped and not rule.thinks)

    @property
    def _tail(self) -> int:
        """The position from which on the last tokens are looked at."""
        return self._seen[-self._rule.window] if len(self._seen) > self._rule.window else 0

    def _thinking_ends(self, tail: int) -> bool:
        end = self._rule.think_end
        if not isinstance(end, str):
            return self._tokens[-1] == end
        times = self._rule.decode(self._tokens[tail:]).count(end)
        return times > 0 and times > self._rule.decode(self._tokens[tail:-1]).count(end)

    def _stops(self, tail: int) -> bool:
        rule = self._rule
        begin = self._start if tail <= self._settled else tail
        text = rule.decode(self._tokens[begin:])
        if rule.thinks and begin == self._start:
            if self.thinking and isinstance(rule.think_end, str):
                text = text.split(rule.think_end)[-1]
            text = text.lstrip()
            if not text:  # what comes next is the beginning
                self._start = self._settled = len(self._tokens)
        return any(string in text for string in rule.strings)
