"""Score continuations and whole texts on transformers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from lm_eval_moe.backends.capturing import sums_by_row
from lm_eval_moe.backends.hf.contexts import SharedRows, shared_rows
from lm_eval_moe.backends.hf.sharing import Sharing
from lm_eval_moe.backends.hf.uncompiled import uncompiled
from lm_eval_moe.backends.ordering import likelihood_order, rounds_without_conflict
from lm_eval_moe.backends.requests import labels_of, window_labels
from lm_eval_moe.harness.requests import prompt_of
from lm_eval_moe.recording import Forest
from lm_eval_moe.recording.layout import cut_points, padded_batch, places_of
from lm_eval_moe.replacing import replaced
from lm_eval_moe.routers import intercepted

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from torch import Tensor

    from lm_eval_moe.backends.requests import TokenRequests
    from lm_eval_moe.recording import RowUse, Span

__all__ = ["Likelihoods"]

logger = logging.getLogger(__name__)


class Likelihoods(Sharing):
    """The part of `HFMoE` that scores."""

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations; each request's routing is recorded under its task, document and index."""
        # lm-eval encodes the context of a document again for each of its choices.
        with replaced(self, "tok_encode", lru_cache(maxsize=256)(self.tok_encode)):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts; the windows of a long text add up to one record, no token counted twice."""
        self._check_span(requests)
        texts = [self.tok_encode(prompt_of(request)) for request in requests]
        with self._labelled(window_labels(labels_of(requests), texts, self.prefix_token_id, self.max_length)):
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if not self._active and not self._shares:
            return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
        token_requests = self._token_requests(requests, self.max_length)
        shared = self._shared_rows(token_requests, override_bs)
        if shared is not None:
            return self._scores_shared(token_requests, shared, quiet=disable_tqdm)
        plain = super()._loglikelihood_tokens
        if not self._active:
            return plain(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
        rounds = None
        if self.logits_cache:  # requests can share a row
            rounds = rounds_without_conflict(
                requests, lambda i: self._steered_as(token_requests.languages[i], token_requests.use(i))
            )

        def order(indices: Sequence[int]) -> list[list[int]]:
            return likelihood_order([requests[index] for index in indices], grouped=self.logits_cache)

        def run(indices: Sequence[int], plans: Sequence[int]) -> list[list[tuple[float, bool]]]:
            rows, batch = order(indices), [requests[index] for index in indices]
            answers = []
            for plan in plans:
                with self._expecting(
                    (replace(row, plan=plan) for row in token_requests.rows(rows, indices)), len(rows)
                ):
                    # The bar that is there counts these requests, once for all plans.
                    hidden = disable_tqdm or bool(plan) or self._bar is not None
                    answers.append(plain(batch, disable_tqdm=hidden, override_bs=override_bs))
            return answers

        return self._scores(token_requests, order, run, rounds=rounds, quiet=disable_tqdm)

    def _shared_rows(self, token_requests: TokenRequests, override_bs: int | None) -> SharedRows | None:
        """Return requests planned as rows that share contexts; None where they run one by one."""
        if not self._shares:
            return None
        shared, size = shared_rows(self, token_requests, self._proof), self.batch_size_per_gpu
        if isinstance(size, str) and not override_bs:
            # To find a size by trying, processes have to meet: they all go the same way, now and later.
            gathered = self.gather((shared is not None, self._proof.refused))
            self._proof.refused = next((why for _, why in gathered if why is not None), None)
            if not all(shares for shares, _ in gathered):
                return None
        if shared is None:
            return None
        if isinstance(size, str):
            size = override_bs or self._detect_batch_size([token_requests.requests[shared.longest]])
        shared.fill(size * token_requests.length(shared.longest))
        if cut := sum(
            len(context) + len(continuation) > self.max_length + 1
            for _, context, continuation in token_requests.requests
        ):
            logger.warning(
                "%d requests are cut at their beginning: the model takes %d tokens (max_length)", cut, self.max_length
            )
        return shared

    def _scores_shared(
        self, token_requests: TokenRequests, shared: SharedRows, *, quiet: bool
    ) -> list[tuple[float, bool]]:
        @cache
        def say_what_is_computed() -> None:
            count = len(token_requests.requests)
            logger.info("%d requests have %d tokens, of which %d are computed", count, *shared.tokens)

        def run(indices: Sequence[int], plans: Sequence[int]) -> list[list[tuple[float, bool]]]:
            say_what_is_computed()  # not where everything is known from a run before
            hidden = quiet or self.rank != 0 or bool(plans[0])
            with self._progress("Running loglikelihood requests", len(indices), quiet=hidden) as bar:
                return shared.run(indices, plans, bar)

        # Whether answers are kept or not, the same requests run together.
        with closing(shared):
            return self._scores(token_requests, lambda _: shared.blocks(self.rows_at_once), run, at_once=1, quiet=quiet)

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        if not self._active:
            return super()._model_call(inps, attn_mask, labels)
        forest = Forest()
        if self._probing:
            rows, paths = [], [[forest.add()] for _ in inps]
            segment = np.repeat(np.array(paths), inps.shape[1], axis=1)
        elif self._queue is not None:
            rows = self._queue.take_tokens(inps.tolist())
            segment, paths = padded_batch(forest, rows, inps.shape[1])
        else:
            raise RuntimeError("the model was called outside a request: routing cannot be attributed")
        passes, recorder = self._listening_to(forest, rows, paths)
        with uncompiled(self.model), intercepted(self._sites, passes, top_k=self.routing_shape.top_k):
            passes.start_pass(inps, forest.begin_pass(segment))
            logits = super()._model_call(inps, attn_mask, labels)
            passes.end_pass()

        def places(row: int, use: RowUse, span: Span) -> Sequence[int]:
            return places_of(use, cut_points(rows[row]), span)

        self.captured.collect(self._span, rows, sums_by_row(recorder, paths), places)
        return logits

    def _detect_batch_size(self, requests: Sequence[Any] | None = None, pos: int = 0) -> int:
        with replaced(self, "_probing", True):
            size: int = super()._detect_batch_size(requests, pos)
        return size
