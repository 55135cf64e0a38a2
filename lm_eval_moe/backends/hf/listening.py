"""How the passes of a model on transformers are run and heard, whatever they are for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import torch
from lm_eval.models.huggingface import HFLM

from lm_eval_moe.backends.hf.uncompiled import uncompiled
from lm_eval_moe.backends.passes import RoutedPasses
from lm_eval_moe.backends.routed_state import RoutedState
from lm_eval_moe.recording import ExpectedRow, Forest, Recorder, RowQueue
from lm_eval_moe.replacing import replaced

if TYPE_CHECKING:
    from lm_eval_moe.recording import RequestKey
    from lm_eval_moe.routers import RouterSite

__all__ = ["Listening"]


class Listening(RoutedState, HFLM):
    """The part of `HFMoE` that scoring and generating have in common."""

    batch_size_per_gpu: int | str  # set by HFLM
    _sites: tuple[RouterSite, ...]
    _scoring: str | None

    def _begin_listening(self) -> None:
        self._queue: RowQueue | None = None
        self._probing = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the model run as it does in a pass of log-likelihood inside the ``with`` block."""
        dtype = self.mixed_precision_dtype
        with torch.no_grad(), uncompiled(self.model), torch.autocast(self.device.type, dtype, dtype is not None):
            yield

    def at_batch_size(self, size: int) -> AbstractContextManager[None]:
        """Run batches of a size inside the ``with`` block."""
        return replaced(self, "batch_size_per_gpu", size)

    @contextmanager
    def _expecting(self, rows: Iterator[ExpectedRow], count: int) -> Iterator[None]:
        queue = RowQueue(rows, count)
        with replaced(self, "_queue", queue):
            yield
        queue.finish()

    def _listening_to(
        self, forest: Forest, rows: Sequence[ExpectedRow], paths: Sequence[Sequence[int]]
    ) -> tuple[RoutedPasses, Recorder | None]:
        """Return what listens to the passes of a batch, and what records of it, if any of it is wanted."""
        keys = zip((path[0] for path in paths), (row.uses[0].key for row in rows), strict=False)
        is_recorded = self._probing or any(self._wants(use) for row in rows for use in row.uses)
        return self.listening(forest, is_recorded, {segment: key for segment, key in keys if key is not None})

    def listening(
        self,
        forest: Forest,
        is_recorded: bool,
        requests: Mapping[int, RequestKey],
        *,
        steered: bool = True,
        together: int = 1,
    ) -> tuple[RoutedPasses, Recorder | None]:
        """Return what listens to passes, and what records of them.

        Args:
            forest: The segments.
            is_recorded: Whether anything of them is to be recorded.
            requests: Requests by a segment of theirs, for messages.
            steered: Whether the model's plans steer them.
            together: How many passes are looked at together for logits that are not finite.
        """
        recorder = None
        if self._span is not None and is_recorded:
            recorder = Recorder(
                forest,
                len(self._sites),
                self.routing_shape.experts,
                arrays=self.captured.request.arrays,
                sigmoid=self._scoring == "sigmoid",
                skips=any(site.block.extra for site in self._sites),
            )
        passes = RoutedPasses(
            recorder,
            self._new_steerer() if steered else None,
            compare=self.captured.request.changes,
            layers=self.routing_shape.layers,
            forest=forest,
            requests=requests,
            together=together,
        )
        return passes, recorder
