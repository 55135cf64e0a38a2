"""What is heard of rows that share contexts: the segments of their branches, for each copy of a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lm_eval_moe.capture.token_rows import NONE, Indices, Steered

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.backends.hf.contexts.tree import Branch
    from lm_eval_moe.backends.passes import RoutedPasses
    from lm_eval_moe.capture import Forest, Recorder, RequestKey
    from lm_eval_moe.capture.sums import SegmentSums

__all__ = ["Hearing"]


class Hearing:
    """The segments of some layers, which see every row once for each of C copies.

    Args:
        forest: Where the segments are planted.
        passes: Listens to the layers' routers.
        recorder: Sums up what they do; None: nobody does.
        requests: What ``passes`` knows of whose segment is whose, for messages.
        steered: Returns how a branch's tokens are steered in each of the copies.
        key: Returns the key of a request, by number; None if it is nobody's.
    """

    def __init__(
        self,
        forest: Forest,
        passes: RoutedPasses,
        recorder: Recorder | None,
        requests: dict[int, RequestKey],
        steered: Callable[[Branch], Sequence[Steered]],
        key: Callable[[int], RequestKey | None],
    ) -> None:
        self.passes, self.recorder = passes, recorder
        self._forest, self._requests, self._steered, self._key = forest, requests, steered, key
        self._front: list[list[int]] = []  # of each copy: the segments of the prefix
        self._own: list[list[int]] = []  # of each copy: the segments of the batch's branches

    def begin(self, tokens: Tensor, branches: Sequence[Branch], branch: Indices) -> None:
        """Begin a pass over rows whose branches follow the prefix, if there was one.

        Args:
            tokens: ``[B, T]`` token ids.
            branches: The branches; ``before`` is the number of one of them.
            branch: ``[B, T]`` the branch of each token; `NONE` for padding.
        """
        self._own = []
        for number, each in enumerate(branches):
            for copy, steered in enumerate(self._steered(each)):
                if not number:
                    self._own.append([])
                own, front = self._own[copy], self._front[copy] if self._front else []
                before = own[each.before] if each.before != NONE else front[-1] if front else NONE
                own.append(self._forest.add(before, steered))
                if (key := self._key(each.request)) is not None:
                    self._requests[own[-1]] = key
        segment = np.concatenate([np.array([*own, NONE])[branch] for own in self._own])
        self.passes.start_pass(tokens.repeat(len(self._own), 1), self._forest.begin_pass(segment))

    def keep_in_front(self) -> None:
        """Let the branches of the pass be what is in front of the rows to come."""
        self._front, self._own = self._own, []

    def sums(self, lines: Sequence[Sequence[int]]) -> list[list[SegmentSums]]:
        """Return the sums of whole sequences, copy by copy.

        Args:
            lines: The branches of each behind the prefix, by number.
        """
        assert self.recorder is not None
        front = self._front or [[] for _ in self._own]
        paths = [
            [*begin, *(own[n] for n in line)] for begin, own in zip(front, self._own, strict=True) for line in lines
        ]
        found = self.recorder.sums_of(paths)
        return [found[start : start + len(lines)] for start in range(0, len(found), len(lines))]

    def release(self) -> None:
        """Give up the segments of the pass."""
        for own in self._own:
            self._forest.release(own)
            for segment in own:
                self._requests.pop(segment, None)
        self._own = []
