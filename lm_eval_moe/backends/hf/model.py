"""``hf-moe``: lm-eval's Hugging Face model with routing capture and router steering."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from lm_eval_moe.backends.arguments import resolve_plan
from lm_eval_moe.backends.base import TorchModules
from lm_eval_moe.backends.capturing import sums_by_row
from lm_eval_moe.backends.hf import refusals
from lm_eval_moe.backends.hf.checkpoint import checked_loading
from lm_eval_moe.backends.hf.identity import code_parts, model_parts
from lm_eval_moe.backends.hf.probe import probe
from lm_eval_moe.backends.hf.uncompiled import core_of, uncompiled
from lm_eval_moe.backends.loading import model_path, modules_before_loading, shape_before_loading
from lm_eval_moe.backends.ordering import generation_order, likelihood_order, rounds_without_conflict
from lm_eval_moe.backends.passes import RoutedPasses
from lm_eval_moe.backends.requests import labels_of, window_labels
from lm_eval_moe.backends.routed_state import RoutedState
from lm_eval_moe.backends.stopping import RowReading, StopRule
from lm_eval_moe.backends.weights import LoadedWeights
from lm_eval_moe.capture import ExpectedRow, Forest, GenerationTracker, Recorder, RowQueue, RowUse
from lm_eval_moe.capture.layout import padded_batch, places_of
from lm_eval_moe.harness.requests import prompt_of
from lm_eval_moe.replacing import replaced
from lm_eval_moe.routers import RouterSite, find_sites, intercepted, routing_shape
from lm_eval_moe.routers.families import load_adapter
from lm_eval_moe.routers.sites import encoder_decoder_error
from lm_eval_moe.shape import RoutingShape

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from torch import Tensor

    from lm_eval_moe.steering import SteeringPlan, SteeringSpec

__all__ = ["HFMoE"]

logger = logging.getLogger(__name__)


@register_model("hf-moe")
class HFMoE(RoutedState, HFLM):
    """A mixture-of-experts causal language model whose routing is captured and, if asked for, steered.

    Takes every argument of `HFLM`. Without steering its answers are bit-identical to those of ``hf``.

    Args:
        pretrained: Hub id, local path, a loaded ``PreTrainedModel``, or ``demo`` for the bundled tiny model.
        steering: A steering YAML file, or a spec or plan made in Python. None: the model as it is.
        capture: Which tokens' routing is recorded: ``prompt`` (also ``true``), ``thinking`` (needs a
            ``think_end_token``), ``continuation``, ``all`` or ``off``.
        parallel: Further files that say which task is which language, before the bundled one.
        adapter: A Python file with the adapter of a family that has none (docs/adapters.md).
        allow_missing_weights: Go on where weights of routers, experts or embeddings are missing from the checkpoint, of
            another shape, or of no use to the model; what is missing is drawn at random.
        **kwargs: Passed on to `HFLM`.

    Raises:
        UserError: The model is dense, its routers cannot be intercepted, the steering does not fit it, or its
            checkpoint does not.
    """

    backend_name = "hf-moe"
    batch_size_per_gpu: int | str  # set by HFLM

    def __init__(
        self,
        pretrained: Any = "demo",
        *,
        steering: str | Path | SteeringSpec | SteeringPlan | None = None,
        capture: str | bool = "prompt",
        parallel: str | Sequence[str] = (),
        adapter: str | Path | None = None,
        allow_missing_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        self._begin_capture(capture, parallel, kwargs.get("think_end_token"))
        self._allow_missing_weights = allow_missing_weights
        self._given_name = pretrained if isinstance(pretrained, str) else None
        pretrained = model_path(pretrained)
        refusals.check_arguments(kwargs)
        self.weights = LoadedWeights(pretrained, {**kwargs, "adapter": adapter})
        if isinstance(pretrained, str):
            # A steering file that does not fit is refused before an hour of loading weights.
            shape = shape_before_loading({**kwargs, "pretrained": pretrained, "adapter": adapter})
            steering = resolve_plan(steering, shape)
            if kwargs.get("device") is None and not torch.cuda.is_available():
                kwargs["device"] = "mps" if torch.backends.mps.is_available() else "cpu"
        elif adapter is not None:
            load_adapter(adapter)
        super().__init__(pretrained=pretrained, **kwargs)
        if self.backend != "causal":
            raise encoder_decoder_error(type(self.model).__name__)
        refusals.check_device(self.device.type)
        refusals.check_think_end(self.tokenizer, self.think_end_token)
        self._sites: tuple[RouterSite, ...] = find_sites(self.model)
        self.routing_shape: RoutingShape = routing_shape(self.model, self._sites)
        self._scoring = probe(self.model, self._sites, self.routing_shape, self.device)
        self.code = code_parts(self.model, self.tokenizer, adapter)
        self.set_steering(steering)
        self._queue: RowQueue | None = None
        self._probing = False
        self._prompts: list[str] = []
        self._fed: list[tuple[int, int]] = []  # tokens fed of prompt and answer, row by row as they are generated

    def _create_model(self, *args: Any, **kwargs: Any) -> None:
        with checked_loading(self, allow=self._allow_missing_weights):
            super()._create_model(*args, **kwargs)

    # ------------------------------------------------------------------ what it is

    shape_before_loading = staticmethod(shape_before_loading)
    modules_before_loading = staticmethod(modules_before_loading)

    @property
    def model_id(self) -> str:
        """What names the model in profiles: as it was asked for, or as its config calls itself."""
        return self._given_name or str(self.config._name_or_path)

    def _own_parts(self) -> dict[str, Any]:
        return model_parts(self, self.weights)

    def trust_files(self) -> None:
        """Let the files stand for the weights from now on, and begin to hash them: nobody else holds the model."""
        self.weights.use_files()

    def torch_modules(self) -> TorchModules:
        """Return the modules with their routers, for those who look at them from outside."""
        sites, dtype = find_sites(self.model), self.mixed_precision_dtype

        @contextmanager
        def running() -> Iterator[None]:
            with torch.no_grad(), uncompiled(self.model), torch.autocast(self.device.type, dtype, dtype is not None):
                yield

        return TorchModules(
            self.model,
            self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model,
            sites,
            self.device,
            running,
            lambda: probe(self.model, sites, self.routing_shape, self.device),
            frozenset(self._end_tokens({})),
        )

    def at_batch_size(self, size: int) -> AbstractContextManager[None]:
        """Run batches of a size inside the ``with`` block."""
        return replaced(self, "batch_size_per_gpu", size)

    # ------------------------------------------------------------------ log-likelihood

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts; the windows of a long text add up to one record, no token counted twice."""
        self._check_span(requests)
        texts = [self.tok_encode(prompt_of(request)) for request in requests]
        with self._labelled(window_labels(labels_of(requests), texts, self.prefix_token_id, self.max_length)):
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        if not self._active:
            return super()._loglikelihood_tokens(requests, disable_tqdm=disable_tqdm, override_bs=override_bs)
        known = self._token_requests(requests, self.max_length)
        rounds = None
        if self.logits_cache:  # requests can share a row
            rounds = rounds_without_conflict(requests, lambda i: self._steered_as(known.languages[i], known.use(i)))
        plain = super()._loglikelihood_tokens
        quiet = disable_tqdm or self.response_cache is not None

        def order(indices: Sequence[int]) -> list[list[int]]:
            return likelihood_order([requests[index] for index in indices], grouped=self.logits_cache)

        def run(indices: Sequence[int], plans: Sequence[int]) -> list[list[tuple[float, bool]]]:
            rows = order(indices)
            with self._expecting(known.rows(rows, indices), len(rows)):
                chosen = [requests[index] for index in indices]
                return [plain(chosen, disable_tqdm=quiet, override_bs=override_bs)]

        return self._scores(known, order, run, rounds=rounds, quiet=disable_tqdm)

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
        passes, recorder = self._listening(forest, rows, paths)
        with uncompiled(self.model), intercepted(self._sites, passes, top_k=self.routing_shape.top_k):
            passes.start_pass(inps, forest.begin_pass(segment))
            logits = super()._model_call(inps, attn_mask, labels)
            passes.end_pass()
        sums = sums_by_row(recorder, paths)
        self.captured.collect(self._span, rows, sums, lambda row, use, span: places_of(use, rows[row], span))
        return logits

    def _detect_batch_size(self, requests: Sequence[Any] | None = None, pos: int = 0) -> int:
        with replaced(self, "_probing", True):
            size: int = super()._detect_batch_size(requests, pos)
        return size

    # ------------------------------------------------------------------ generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate; prompts and generated tokens are recorded under each request's task, document and repeat."""
        if not self._active:
            return super().generate_until(requests, disable_tqdm=disable_tqdm)
        labels = labels_of(requests)
        languages = [self._language_for_steering(label.task) for label in labels]
        uses = [RowUse(label.key, 0) for label in labels]
        plain = super().generate_until
        found: list[int] = []
        quiet = disable_tqdm or self.response_cache is not None

        def order(indices: Sequence[int]) -> list[list[int]]:
            return [[i] for i in generation_order([requests[index].args for index in indices], self.tok_encode)]

        def run(indices: Sequence[int], plans: Sequence[int]) -> list[list[tuple[str, int, int]]]:
            positions = order(indices)
            self._fed = []
            rows = (
                ExpectedRow((uses[index],), languages[index], text=requests[index].args[0])
                for index in (indices[position] for (position,) in positions)
            )
            with self._expecting(rows, len(positions)), self._size_found_once(found):
                texts = plain([requests[index] for index in indices], disable_tqdm=quiet)
            fed = dict(zip((position for (position,) in positions), self._fed, strict=True))
            return [[(text, *fed[position]) for position, text in enumerate(texts)]]

        return self._texts(requests, uses, languages, order, run, quiet=disable_tqdm)

    def _size_found_once(self, found: list[int]) -> AbstractContextManager[None]:
        """Keep ``batch_size=auto`` from being tried out anew for every block of the response cache."""
        if self.response_cache is None or self.batch_size_per_gpu != "auto":
            return nullcontext()
        if not found:
            found.append(self._detect_batch_size())
        return self.at_batch_size(found[0])

    def tok_batch_encode(self, strings: list[str], *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Encode a batch of prompts, remembering their texts for the rows of the generation that follows."""
        self._prompts = list(strings)
        return super().tok_batch_encode(strings, *args, **kwargs)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        if not self._active or self._queue is None:
            return super()._model_generate(context, max_length, stop, **generation_kwargs)
        rows = self._queue.take_texts(self._prompts)
        mask = generation_kwargs["attention_mask"].bool().cpu().numpy()
        rule = StopRule(self.tokenizer, stop, self._end_tokens(generation_kwargs), self.think_end_token)
        forest = Forest()
        readings = [RowReading(rule) for _ in rows]
        tracker = GenerationTracker(forest, mask, readings, [row.language for row in rows], thinks=rule.thinks)
        passes, recorder = self._listening(forest, rows, tracker.paths)

        def start(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tokens = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            if tokens is None:  # prompt tuning feeds the prompt as embeddings, behind its virtual tokens
                tokens = context
            passes.start_pass(tokens, forest.begin_pass(tracker.next_pass(tokens.tolist())))

        def end(*_: Any) -> None:
            passes.end_pass()

        core = core_of(self.model)
        generation_kwargs["disable_compile"] = True  # which `generate` does by itself with a static cache on a GPU
        with (
            uncompiled(self.model),
            intercepted(self._sites, passes, top_k=self.routing_shape.top_k),
            core.register_forward_pre_hook(start, with_kwargs=True),
            core.register_forward_hook(end),
        ):
            generated = super()._model_generate(context, max_length, stop, **generation_kwargs)
        tracker.finish(generated[:, -1].tolist())
        places, sums = tracker.places_of, sums_by_row(recorder, tracker.paths)
        self.captured.collect(self._span, rows, sums, lambda row, _, span: places(row, span), tracker.thinking)
        self._fed += [tracker.fed(row) for row in range(len(rows))]
        return generated

    def _end_tokens(self, generation_kwargs: dict[str, Any]) -> set[int]:
        """Return the tokens at which ``generate`` ends a row; the tokenizer's own may not be among them."""
        ids = generation_kwargs.get("eos_token_id", self.model.generation_config.eos_token_id)
        return set(ids) if isinstance(ids, (list, tuple)) else {ids} - {None}

    # ------------------------------------------------------------------ the common path

    @contextmanager
    def _expecting(self, rows: Iterator[ExpectedRow], count: int) -> Iterator[None]:
        queue = RowQueue(rows, count)
        with replaced(self, "_queue", queue):
            yield
        queue.finish()

    def _listening(
        self, forest: Forest, rows: Sequence[ExpectedRow], paths: Sequence[Sequence[int]]
    ) -> tuple[RoutedPasses, Recorder | None]:
        """Return what listens to the passes of a batch, and what records of it, if any of it is wanted."""
        recorder = None
        if self._span is not None and (self._probing or any(self._wants(use) for row in rows for use in row.uses)):
            recorder = Recorder(
                forest,
                len(self._sites),
                self.routing_shape.experts,
                arrays=self.captured.request.arrays,
                sigmoid=self._scoring == "sigmoid",
                skips=any(site.block.extra for site in self._sites),
            )
        keys = zip((path[0] for path in paths), (row.uses[0].key for row in rows), strict=False)
        passes = RoutedPasses(
            recorder,
            self._new_steerer(),
            compare=self.captured.request.changes,
            layers=self.routing_shape.layers,
            forest=forest,
            requests={segment: key for segment, key in keys if key is not None},
        )
        return passes, recorder

    # ------------------------------------------------------------------ what lm-eval asks for

    def get_model_info(self) -> dict[str, Any]:
        """Add what routing was captured and how it was steered to lm-eval's description of the model."""
        info: dict[str, Any] = super().get_model_info()
        info["routing_capture"] = self.capture
        info["steering"] = {"name": self._plan.name, "hash": self._plan.hash} if self._plan else None
        return info
