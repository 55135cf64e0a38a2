"""Generate on transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lm_eval_moe.backends.capturing import sums_by_row
from lm_eval_moe.backends.hf.caches import NAMES as CACHE_NAMES
from lm_eval_moe.backends.hf.caches import generating_from
from lm_eval_moe.backends.hf.contexts import BehindFront, SharedFront, all_begin_with, prompts_by_front
from lm_eval_moe.backends.hf.leaving import EndOfRows, divides, generated
from lm_eval_moe.backends.hf.sharing import Sharing
from lm_eval_moe.backends.hf.uncompiled import generating_module, uncompiled
from lm_eval_moe.backends.ordering import generation_order
from lm_eval_moe.backends.requests import labels_of
from lm_eval_moe.backends.stopping import RowReading, StopRule
from lm_eval_moe.harness.requests import is_sampled
from lm_eval_moe.harness.stopping import stopping_by
from lm_eval_moe.recording import ExpectedRow, Forest, GenerationTracker, RowUse
from lm_eval_moe.recording.token_rows import Steered
from lm_eval_moe.replacing import replaced
from lm_eval_moe.routers import intercepted

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from torch import Tensor

    from lm_eval_moe.backends.passes import RoutedPasses
    from lm_eval_moe.recording import Recorder, RequestKey
    from lm_eval_moe.recording.token_rows import Indices

__all__ = ["Generations"]

_ANYWHERE = {"attention_mask", "do_sample", "temperature", "top_k", "top_p", "disable_compile", *CACHE_NAMES}
"""What describes a generation without counting tokens from the end of the prompt: it may continue from any token."""

_PROMPTS = 1024
"""Prompts whose tokens are kept from ordering them, which lm-eval does once more."""

_TOGETHER = 16
"""Steps of decoding after which it is looked whether router logits were finite: a GPU waits for each look."""


class _PromptListening:
    """What listens to batches of prompts, and what has been computed in front of them.

    Args:
        tokens: What all of them begin with, if that is computed once.
        language: Decides how it is steered.
        wanted: Whether anything is recorded of any of them.
        together: How many passes are looked at together for logits that are not finite.
    """

    def __init__(
        self, lm: Generations, tokens: Indices | None, language: str | None, *, is_recorded: bool, together: int
    ) -> None:
        self.forest = Forest()
        self.requests: dict[int, RequestKey] = {}
        self.passes: RoutedPasses
        self.recorder: Recorder | None
        self.passes, self.recorder = lm.listening(self.forest, is_recorded, self.requests, together=together)
        self.segments: list[int] = []
        self.front: SharedFront | None = None
        if tokens is not None:
            self.segments = [self.forest.add(steered=Steered(language))]
            rows = self.forest.begin_pass(np.full((1, len(tokens)), self.segments[0]))
            with lm.running(), intercepted(lm._sites, self.passes, top_k=lm.routing_shape.top_k):
                self.passes.start_pass(torch.from_numpy(tokens).to(lm.device), rows)
                self.front = SharedFront.of(lm.model, tokens, lm.device)
                self.passes.end_pass()


class Generations(Sharing):
    """The part of `HFMoE` that generates."""

    generates_ahead = False

    def _begin_generations(self) -> None:
        self._prompts: list[str] = []
        self._fed: list[tuple[int, int]] = []  # tokens fed of prompt and answer, row by row as they are generated
        self._front: Indices | None = None  # what the prompts that come begin with, if that is computed once
        self._begun: _PromptListening | None = None  # what listens behind it
        self._divides = False  # whether rows can leave a batch: the first one shows it

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate; prompts and generated tokens are recorded under each request's task, document and repeat."""
        if not self._active:
            return super().generate_until(requests, disable_tqdm=disable_tqdm)
        labels = labels_of(requests)
        languages = [self._language_for_steering(label.task) for label in labels]
        uses = [RowUse(label.key, 0) for label in labels]
        plain, sizes = super().generate_until, list[int]()
        groups = self._by_front(requests, languages, uses)

        def members(indices: Sequence[int]) -> Iterator[tuple[Indices | None, list[int]]]:
            """Yield what some requests have in front, and the requests in running order."""
            members = set(indices)
            for front, numbers in groups:
                group = [number for number in numbers if number in members]
                if group:
                    running = generation_order([requests[number].args for number in group], self.tok_encode)
                    yield front, [group[place] for place in running]

        def batches(indices: Sequence[int]) -> list[list[int]]:
            size = self.batch_size_per_gpu if isinstance(self.batch_size_per_gpu, int) else self.rows_at_once
            cut: list[list[int]] = []
            for _, numbers in members(indices):
                for _, group in groupby(numbers, key=lambda number: repr(requests[number].args[1])):
                    group_numbers = list(group)
                    cut += [group_numbers[start : start + size] for start in range(0, len(group_numbers), size)]
            return cut

        def run(indices: Sequence[int], plans: Sequence[int]) -> list[list[tuple[str, int, int]]]:
            answers: dict[int, tuple[str, int, int]] = {}
            for front, numbers in members(indices):
                self._fed = []
                if front is not self._front:
                    self._front, self._begun = front, None
                rows = (ExpectedRow((uses[n],), languages[n], text=requests[n].args[0]) for n in numbers)
                with self._expecting(rows, len(numbers)), self._size_found_once(sizes):
                    # They are in order: lm-eval orders them the same way.
                    texts = plain([requests[number] for number in numbers], disable_tqdm=True)
                answers.update((n, (text, *fed)) for n, text, fed in zip(numbers, texts, self._fed, strict=True))
            return [[answers[index] for index in indices]]

        hidden = disable_tqdm or self.rank != 0
        with (
            self._progress("Running generate_until requests", len(requests), quiet=hidden),
            replaced(self, "_front", None),
            replaced(self, "_begun", None),
            replaced(self, "tok_encode", lru_cache(maxsize=_PROMPTS)(self.tok_encode)),
        ):
            return self._texts(requests, uses, languages, batches, run, at_once=1, quiet=hidden)

    def _by_front(
        self, requests: Sequence[Instance], languages: Sequence[str | None], uses: Sequence[RowUse]
    ) -> list[tuple[Indices | None, list[int]]]:
        """Return what requests have in front that is computed once, if anything, and the numbers of these requests."""
        everything: list[tuple[Indices | None, list[int]]] = [(None, list(range(len(requests))))]
        if not self._shares or any(is_sampled(request.args[1]) for request in requests):
            return everything
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        keys = [
            tuple(steered and steered[0] for steered in self._steered_as(language, use))
            for language, use in zip(languages, uses, strict=True)
        ]
        groups = prompts_by_front(prompts, keys)
        if not self._proof.allows_fronts(self, groups, prompts):
            return everything
        return [(tokens if len(tokens) else None, numbers) for tokens, numbers in groups]

    def _size_found_once(self, sizes: list[int]) -> AbstractContextManager[None]:
        """Keep ``batch_size=auto`` from being tried out again for every block of requests, and every beginning."""
        if self.batch_size_per_gpu != "auto":
            return nullcontext()
        if not sizes:
            sizes.append(self._detect_batch_size())
        return self.at_batch_size(sizes[0])

    def tok_batch_encode(self, strings: list[str], *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Encode a batch of prompts, remembering their texts for the rows of the generation that follows."""
        self._prompts = list(strings)
        return super().tok_batch_encode(strings, *args, **kwargs)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        if not self._active or self._queue is None:
            return super()._model_generate(context, max_length, stop, **generation_kwargs)
        rows = self._queue.take_texts(self._prompts)
        # Sampling raises its own error where logits are not finite, which would not say why.
        sampled = generation_kwargs.get("do_sample") or generation_kwargs.get("temperature")
        together = 1 if sampled else _TOGETHER
        begun, behind = self._listening_behind(rows, context, generation_kwargs["attention_mask"], together)
        mask = generation_kwargs.pop("attention_mask")
        own_mask, position = mask, None
        if behind is not None:
            context, mask, own_mask, position = behind.tokens, behind.mask, behind.own, behind.position
            generation_kwargs |= generating_from(behind.cache)
        rule = StopRule(self.tokenizer, stop, self._end_tokens(generation_kwargs), self.think_end_token)
        tracker = GenerationTracker(
            begun.forest,
            own_mask.bool().cpu().numpy(),
            [RowReading(rule) for _ in rows],
            [row.language for row in rows],
            front=begun.segments,
            thinks=rule.thinks,
        )
        prompts = [path[-1] for path in tracker.paths]
        begun.requests.update((s, row.uses[0].key) for s, row in zip(prompts, rows, strict=True) if row.uses[0].key)
        passes = begun.passes

        def start(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            if tokens is None:  # prompt tuning feeds the prompt as embeddings, behind its virtual tokens
                tokens = context
            passes.start_pass(tokens, begun.forest.begin_pass(tracker.next_pass(*tokens.shape)))

        def end(*_: Any) -> None:
            passes.end_pass()

        core = generating_module(self.model)
        generation_kwargs["disable_compile"] = True  # which `generate` does by itself with a static cache on a GPU
        # What is drawn at random depends on all that was drawn before.
        ends = not sampled
        looked_for = [text for text in stop if rule.thinks or not ends or rule.is_unread(text)]
        # A stop string that only lm-eval looks for has to stand in one call; so has what counts from the prompt's end.
        halves = self._shares and self._divides and not looked_for and generation_kwargs.keys() <= _ANYWHERE
        reading = EndOfRows(tracker, ends=ends, halves=halves)
        with (
            uncompiled(self.model),
            stopping_by(reading, looked_for),
            intercepted(self._sites, passes, top_k=self.routing_shape.top_k),
            core.register_forward_pre_hook(start, with_kwargs=True),
            core.register_forward_hook(end),
        ):
            call = partial(super()._model_generate, stop=stop)
            padding = self.tokenizer.pad_token_id
            how = {"max_length": max_length, "padding": padding, **generation_kwargs}
            texts, cache = generated(call, context, mask, position, reading, tracker, **how)
        passes.look()
        self._divides = divides(cache)
        places, sums = tracker.places_of, sums_by_row(begun.recorder, tracker.paths)
        self.captured.collect(self._span, rows, sums, lambda row, _, span: places(row, span), tracker.thinking)
        self._fed += [tracker.fed(row) for row in range(len(rows))]
        begun.forest.release(segment for path in tracker.paths for segment in path[len(begun.segments) :])
        if self._bar is not None:
            self._bar.update(len(rows))
        return texts

    def _listening_behind(
        self, rows: Sequence[ExpectedRow], context: Tensor, mask: Tensor, together: int
    ) -> tuple[_PromptListening, BehindFront | None]:
        """Return what listens to a batch, and the batch behind its front, if it has one that is computed once."""
        is_recorded = any(self._wants(use) for row in rows for use in row.uses)
        # A prompt that is cut on the left begins with something else.
        if self._front is None or not all_begin_with(self._front, context, mask):
            return _PromptListening(self, None, None, is_recorded=is_recorded, together=together), None
        if self._begun is None:
            language, recorded = rows[0].language, self._span is not None
            self._begun = _PromptListening(self, self._front, language, is_recorded=recorded, together=together)
        assert self._begun.front is not None
        return self._begun, self._begun.front.before(context, mask)

    def _end_tokens(self, generation_kwargs: dict[str, Any]) -> set[int]:
        """Return the tokens at which ``generate`` ends a row; the tokenizer's own may not be among them."""
        ids = generation_kwargs.get("eos_token_id", self.model.generation_config.eos_token_id)
        return set(ids) if isinstance(ids, (list, tuple)) else {ids} - {None}
