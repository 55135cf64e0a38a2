"""What is heard of rows that share contexts: the segments of their branches, for each copy of a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from lm_eval_moe.backends.hf.contexts.cells import SplitListener
from lm_eval_moe.recording.token_rows import NONE, Indices, Steered
from lm_eval_moe.routers import intercepted

if TYPE_CHECKING:
    from torch import Tensor

    from lm_eval_moe.backends.hf.contexts.tree import Branch
    from lm_eval_moe.backends.passes import RoutedPasses
    from lm_eval_moe.recording import Forest, Recorder, RequestKey
    from lm_eval_moe.recording.sums import SegmentSums
    from lm_eval_moe.routers import RouterSite

__all__ = ["LayerSegments", "ModelSegments"]


class LayerSegments:
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
        self._fronts: list[list[list[int]]] = []  # of each copy: the segments of each prefix
        self._own: list[list[int]] = []  # of each copy: the segments of the batch's branches
        self._branches: Sequence[Branch] = ()

    def begin(self, tokens: Tensor, branches: Sequence[Branch], branch: Indices) -> None:
        """Begin a pass; see `ModelSegments.passing`."""
        steered = [self._steered(branch) for branch in branches]
        self._own, self._branches = [[] for _ in steered[0]], branches
        for stretch, kinds in zip(branches, steered, strict=True):
            key = self._key(stretch.request)
            for copy, (segments, kind) in enumerate(zip(self._own, kinds, strict=True)):
                if stretch.before != NONE:
                    before = segments[stretch.before]
                else:
                    before = self._fronts[copy][stretch.front][-1] if self._fronts else NONE
                segments.append(self._forest.add(before, kind))
                if key is not None:
                    self._requests[segments[-1]] = key
        segment = np.concatenate([np.array([*segments, NONE])[branch] for segments in self._own])
        self.passes.start_pass(tokens.repeat(len(self._own), 1), self._forest.begin_pass(segment))

    def keep_in_front(self, length: int) -> None:
        """See `ModelSegments.keep_in_front`."""
        self._fronts = [
            [segments[start : start + length] for start in range(0, len(segments), length)] for segments in self._own
        ]
        self._own = []

    def sums(self, lines: Sequence[Sequence[int]]) -> list[list[SegmentSums]]:
        """Return the sums of whole sequences, copy by copy; see `ModelSegments.sums`."""
        assert self.recorder is not None
        paths = [
            [*(self._fronts[copy][self._branches[line[0]].front] if self._fronts else ()), *(segments[n] for n in line)]
            for copy, segments in enumerate(self._own)
            for line in lines
        ]
        sums = self.recorder.sums_of(paths)
        return [sums[start : start + len(lines)] for start in range(0, len(sums), len(lines))]

    def release(self) -> None:
        """See `ModelSegments.release`."""
        for segments in self._own:
            self._forest.release(segments)
            for segment in segments:
                self._requests.pop(segment, None)
        self._own = []


class ModelSegments:
    """All layers: those below the first that sees copies, and the others.

    Args:
        sites: The model's routers.
        top_k: Experts selected per token.
        above: Hears the routers that see copies.
        below: Hears those that do not, if there are any.
        first: The first router that sees copies, by place.
    """

    def __init__(
        self, sites: tuple[RouterSite, ...], top_k: int, above: LayerSegments, below: LayerSegments | None, first: int
    ) -> None:
        self._sites, self._top_k, self._first = sites, top_k, first
        self._above, self._below = above, below
        self._all = [above] if below is None else [below, above]

    @property
    def records(self) -> bool:
        """Whether anything is summed."""
        return self._above.recorder is not None

    @contextmanager
    def passing(self, tokens: Tensor, branches: Sequence[Branch], branch: Indices) -> Iterator[None]:
        """Hear the pass inside the ``with`` block, over rows whose branches follow the prefix, if there was one.

        Args:
            tokens: ``[B, T]`` token ids.
            branches: The branches; ``before`` is the number of one of them.
            branch: ``[B, T]`` the branch of each token; `NONE` for padding.
        """
        above, below = self._above.passes, self._below.passes if self._below is not None else None
        listener = above if below is None else SplitListener(below, above, self._first)
        with intercepted(self._sites, listener, top_k=self._top_k):
            for hearing in self._all:
                hearing.begin(tokens, branches, branch)
            yield
            for hearing in self._all:
                hearing.passes.end_pass()

    def keep_in_front(self, length: int) -> None:
        """Let the branches of the pass be what is in front of the rows to come: so many in front of each."""
        for hearing in self._all:
            hearing.keep_in_front(length)

    def sums(self, lines: Sequence[Sequence[int]]) -> list[list[SegmentSums]]:
        """Return the sums of whole sequences, copy by copy.

        Args:
            lines: The branches of each behind the prefix, by number.
        """
        copies = self._above.sums(lines)
        if self._below is None:
            return copies
        [below] = self._below.sums(lines)
        return [[low.spliced(high, self._first) for low, high in zip(below, upper, strict=True)] for upper in copies]

    def release(self) -> None:
        """Give up the segments of the pass."""
        for hearing in self._all:
            hearing.release()
