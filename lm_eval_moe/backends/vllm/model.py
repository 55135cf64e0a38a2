"""``vllm-moe``: lm-eval's vLLM model with routing capture and router steering."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import accumulate, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.registry import register_model

from lm_eval_moe.backends.answering import drawn_by
from lm_eval_moe.backends.arguments import resolve_plan
from lm_eval_moe.backends.loading import model_path, shape_before_loading
from lm_eval_moe.backends.ordering import likelihood_order, rounds_without_conflict
from lm_eval_moe.backends.requests import labels_of, window_labels
from lm_eval_moe.backends.vllm import refusals
from lm_eval_moe.backends.vllm.batches import RoutedEngine
from lm_eval_moe.backends.vllm.engine import as_lm_eval_asks, starting_engine, vllm_version
from lm_eval_moe.backends.vllm.identity import model_parts
from lm_eval_moe.backends.vllm.seeds import seed_of
from lm_eval_moe.backends.vllm.stages import Stages
from lm_eval_moe.backends.vllm.start import check_start
from lm_eval_moe.backends.weights import LoadedWeights
from lm_eval_moe.harness.requests import prompt_of, running_order
from lm_eval_moe.recording import ExpectedRow, RowQueue, RowUse, Span
from lm_eval_moe.recording.layout import cut_points, places_of
from lm_eval_moe.replacing import replaced

with as_lm_eval_asks():
    from lm_eval.models.vllm_causallms import VLLM

from vllm import SamplingParams

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from lm_eval_moe.steering import SteeringPlan, SteeringSpec

__all__ = ["VLLMMoE"]

logger = logging.getLogger(__name__)

_MAX_CHOICES = 128
"""Tokens whose log-probability one step gives at most (vLLM's ``MAX_LOGPROB_TOKEN_IDS``)."""

_PARTS_OF_AN_ANSWER: dict[Span, list[int]] = {"prompt": [0], "continuation": [1], "all": [0, 1]}
"""The places of what makes up a span, of a prompt and what was generated."""

_FILLINGS = 8
"""How often vLLM could fill its batch with what it is given at once."""


def _shareable(row: Sequence[int], requests: Sequence[Any]) -> list[list[int]]:
    """Return a row of requests that differ in their last token only as rows that vLLM can answer.

    Continuations of one token share a row that ends before them. A longer one is read to its end, and shares a row with
    those that are the very same.
    """
    single = [place for place in row if len(requests[place][2]) == 1 and requests[place][1]]
    rows = [single[start : start + _MAX_CHOICES] for start in range(0, len(single), _MAX_CHOICES)]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place in row:
        if place not in single:
            groups.setdefault(tuple(requests[place][2]), []).append(place)
    return [*rows, *groups.values()]


def _places_of(rows: Sequence[ExpectedRow], row: int, use: RowUse, span: Span) -> Sequence[int]:
    return places_of(use, cut_points(rows[row]), span)


@register_model("vllm-moe")
class VLLMMoE(RoutedEngine, VLLM):
    """A mixture-of-experts causal language model on vLLM whose routing is captured and, if asked for, steered.

    Takes every argument of lm-eval's `VLLM` and of vLLM's ``LLM`` with which routing can be followed.

    Args:
        pretrained: Hub id, local path, or ``demo`` for the bundled tiny model.
        steering: A steering YAML file, or a spec or plan made in Python. None: the model as it is.
        capture: Which tokens' routing is recorded: ``prompt`` (also ``true``), ``continuation``, ``all`` or ``off``.
        parallel: Further files that say which task is which language, before the bundled one.
        **kwargs: Passed on to `VLLM`.

    Raises:
        UserError: The model is dense, the steering does not fit it, or an argument makes its routing invisible.
        RoutingBypassedError: The check at the start did not see or change what it should.
    """

    backend_name = "vllm-moe"
    plans_at_once = 16
    fills_batches = True
    shape_before_loading = staticmethod(shape_before_loading)

    def __init__(
        self,
        pretrained: str = "demo",
        *,
        steering: str | Path | SteeringSpec | SteeringPlan | None = None,
        capture: str | bool = "prompt",
        parallel: str | Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        self._begin_capture(capture, parallel, kwargs.get("think_end_token"))
        kwargs = refusals.without_device(kwargs)
        refusals.check_arguments(kwargs)
        self.model_id = pretrained
        shape = shape_before_loading({**kwargs, "pretrained": pretrained})
        steering = resolve_plan(steering, shape)
        self.routing_shape = shape
        path = model_path(pretrained)
        self.weights = LoadedWeights(path, kwargs)
        kwargs = refusals.with_routing(kwargs)
        with starting_engine():
            super().__init__(pretrained=path, **kwargs)
        self._arguments = kwargs
        self._begin_engine(Stages(self.model.collective_rpc("routing_parts"), shape))
        refusals.check_parts(self._stages)
        self.set_steering(steering)
        self._queue: RowQueue | None = None
        self._fed: list[tuple[int, int]] = []
        self._seeds: list[int] = []
        check_start(self)
        if self.batch_size == 1:
            logger.warning(
                "vLLM is given one request at a time (batch_size=1, the default of lm-eval's own command): "
                "--batch_size auto gives it all of them at once, which takes a fraction of the time"
            )

    # ------------------------------------------------------------------ what it is

    def close(self) -> None:
        """End the engine's processes."""
        self.model.llm_engine.engine_core.shutdown()

    def _own_parts(self) -> dict[str, Any]:
        return model_parts(self, self.weights)

    def trust_files(self) -> None:
        """Begin to hash the files: whoever holds the model, its weights are those of the workers."""
        self.weights.use_files()

    def _resolved(self, steering: str | Path | SteeringSpec | SteeringPlan | None) -> SteeringPlan | None:
        plan = super()._resolved(steering)
        if plan is not None:
            refusals.check_plan(plan, self._stages)
        return plan

    @property
    def rows_at_once(self) -> int:
        """So many that vLLM's batches are full most of the time."""
        if isinstance(self.batch_size, int):
            return super().rows_at_once
        running: int = self.model.llm_engine.vllm_config.scheduler_config.max_num_seqs
        return _FILLINGS * running

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are."""
        return self.model.llm_engine.model_config.get_vocab_size()

    # ------------------------------------------------------------------ log-likelihood

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts; the windows of a long text add up to one record, no token counted twice."""
        self._check_span(requests)
        texts = [self.tok_encode(prompt_of(request)) for request in requests]
        labels = window_labels(labels_of(requests), texts, self.prefix_token_id, self._longest)
        with (
            self._labelled(labels),
            self._progress("Running loglikelihood_rolling requests", len(labels), quiet=disable_tqdm),
            # lm-eval would give as many windows at once as there are texts.
            self.at_batch_size(self.rows_at_once) if self.batch_size == "auto" else nullcontext(),
        ):
            scores: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return scores

    @property
    def _longest(self) -> int:
        """Tokens that a scored text may have before its last one: vLLM has to generate one more."""
        return self.max_length - 2

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        token_requests = self._token_requests(requests, self._longest)

        def order(indices: Sequence[int]) -> list[list[int]]:
            batch = [requests[index] for index in indices]
            return [part for row in likelihood_order(batch, grouped=True) for part in _shareable(row, batch)]

        def run(indices: Sequence[int], plans: Sequence[int]) -> list[list[tuple[float, bool]]]:
            places, scores = order(indices), {plan: [(0.0, False)] * len(indices) for plan in plans}
            pairs = list(product(plans, places))  # one after another: a step then has few plans to steer by
            rows = [replace(row, plan=plan) for plan in plans for row in token_requests.rows(places, indices)]
            row_requests = [[requests[indices[place]] for place in row] for _, row in pairs]
            for (plan, row), row_scores in zip(pairs, self._scored(rows, row_requests), strict=True):
                for place, score in zip(row, row_scores, strict=True):
                    scores[plan][place] = score
            return [scores[plan] for plan in plans]

        rounds = rounds_without_conflict(
            requests, lambda i: self._steered_as(token_requests.languages[i], token_requests.use(i))
        )
        with self._progress("Running loglikelihood requests", len(requests), quiet=disable_tqdm):
            return self._scores(token_requests, order, run, rounds=rounds, quiet=disable_tqdm)

    def _scored(
        self, rows: Sequence[ExpectedRow], row_requests: Sequence[Sequence[Any]]
    ) -> Iterator[list[tuple[float, bool]]]:
        """Yield the scores of the requests that each row serves.

        A row of several continuations of one token ends before them: the log-probabilities of its next token are all
        that is needed. Any other text is read to its end.
        """
        plans = len({row.plan for row in rows})
        for part in self._parts(rows):
            prompts, parameters, facts = [], [], []
            for row, requests in zip(rows[part], row_requests[part], strict=True):
                tokens, ends = list(row.tokens or ()), sorted({request[2][-1] for request in requests})
                choices = len(requests[0][2]) == 1 and bool(tokens)
                prompts.append(tokens if choices else [*tokens, *ends])  # of which there is one
                parameters.append(
                    SamplingParams(temperature=0, max_tokens=1, detokenize=False, logprob_token_ids=ends)
                    if choices
                    else SamplingParams(temperature=0, max_tokens=1, detokenize=False, prompt_logprobs=1)
                )
                facts.append(self._facts(row, cut_points(row)[1:], row.uses[0].boundary, shared=choices))
            outputs = self._run(prompts, parameters, facts, sum(map(len, row_requests[part])) // plans)
            self._collect(
                rows[part], facts, [list(row_facts.cuts) for row_facts in facts], partial(_places_of, rows[part])
            )
            for requests, prompt, output in zip(row_requests[part], prompts, outputs, strict=True):
                if output.prompt_logprobs is None:
                    [log_probabilities], [greedy] = output.outputs[0].logprobs, output.outputs[0].token_ids
                    yield [(log_probabilities[end].logprob, end == greedy) for *_, [end] in requests]
                else:
                    first_scored = len(prompt) - min(len(requests[0][2]), len(prompt) - 1)
                    yield [self._parse_logprobs(tokens=prompt, outputs=output, ctxlen=first_scored)] * len(requests)

    # ------------------------------------------------------------------ generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate; prompts and generated tokens are recorded under each request's task, document and repeat."""
        labels = labels_of(requests)
        languages = [self._language_for_steering(label.task) for label in labels]
        uses = [RowUse(label.key, 0) for label in labels]
        refusals.check_generation(requests, self._span, self.think_end_token)
        plain, base = super().generate_until, torch.initial_seed()

        def order(indices: Sequence[int]) -> list[list[int]]:
            texts = [requests[index].args[0] for index in indices]
            encoded = self.tok_encode(texts) if texts else []
            numbered = list(zip(encoded, texts, range(len(texts)), strict=True))
            return [[request[2]] for request in running_order(numbered, lambda entry: (-len(entry[0]), entry[1]))]

        def run(indices: Sequence[int], plans: Sequence[int]) -> list[list[tuple[str, int, int]]]:
            pairs = list(product(plans, indices))
            positions = [position for (position,) in order([index for _, index in pairs])]
            batch = [requests[index] for _, index in pairs]
            tokens = self.tok_encode([request.args[0] for request in batch]) if batch else []
            rows = (
                ExpectedRow((uses[index],), languages[index], tuple(tokens[place]), plan=plan)
                for place, (plan, index) in ((place, pairs[place]) for place in positions)
            )
            self._fed = []
            draw_keys = (drawn_by(requests[index], uses[index]) for _, index in (pairs[place] for place in positions))
            self._seeds = [seed_of(base, *draw_key) for draw_key in draw_keys]
            queue = RowQueue(rows, len(positions))
            size = self.batch_size * len(plans) if isinstance(self.batch_size, int) else self.batch_size
            with replaced(self, "_queue", queue), self.at_batch_size(size):
                texts = plain(batch, disable_tqdm=True)
            queue.finish()
            fed = dict(zip(positions, self._fed, strict=True))
            answers = [(text, *fed[place]) for place, text in enumerate(texts)]
            return [answers[len(indices) * n : len(indices) * (n + 1)] for n in range(len(plans))]

        with self._progress("Running generate_until requests", len(requests), quiet=disable_tqdm):
            return self._texts(requests, uses, languages, order, run, quiet=disable_tqdm)

    def _model_generate(
        self, requests: list[list[int]], generate: bool = False, sampling_params: Any = None
    ) -> list[Any]:
        assert self._queue is not None
        assert generate
        rows, seeds = self._queue.take_cut(requests), self._seeds[len(self._fed) :]
        for parameters, seed, row in zip(sampling_params, seeds, rows, strict=False):
            refusals.check_room(parameters.max_tokens, self.max_length, row.uses[0].key)
            if parameters.temperature:
                parameters.seed = seed
        return self._generated(rows, requests, sampling_params)

    def answers_to(self, rows: Sequence[ExpectedRow], prompts: Sequence[list[int]], tokens: int) -> list[Any]:
        """Return vLLM's outputs of some prompts with all log-probabilities, and so many tokens behind each."""
        how = {"temperature": 0, "min_tokens": tokens, "max_tokens": tokens, "detokenize": False}
        parameters = [SamplingParams(**how, prompt_logprobs=1, logprobs=1) for _ in rows]
        return self._generated(rows, prompts, parameters)

    def _generated(
        self, rows: Sequence[ExpectedRow], requests: Sequence[list[int]], parameters: Sequence[Any]
    ) -> list[Any]:
        """Return vLLM's outputs of some prompts; their records are kept."""
        outputs: list[Any] = []
        plans = len({row.plan for row in rows})
        for part in self._parts(rows):
            facts = [
                self._facts(row, [len(tokens)], len(tokens), shared=True, is_held=self._span is not None)
                for row, tokens in zip(rows[part], requests[part], strict=True)
            ]
            results = self._run(requests[part], parameters[part], facts, len(facts) // plans)
            # The last token of an answer is never fed.
            fed = [(len(output.prompt_token_ids), len(output.outputs[0].token_ids) - 1) for output in results]
            cuts = [list(accumulate(lengths)) for lengths in fed]
            self._collect(rows[part], facts, cuts, lambda row, use, span: _PARTS_OF_AN_ANSWER[span])
            self._fed += fed
            outputs += results
        return outputs

    def _seed_draws(self, seed: int) -> None:
        """Do nothing: every request has its own seed."""

    # ------------------------------------------------------------------ what lm-eval asks for

    def get_model_info(self) -> Mapping[str, Any]:
        """Say what the model is, what routing was captured and how it was steered."""
        plan, config = self._plan, self.model.llm_engine.model_config
        return {
            "model_dtype": str(config.dtype),
            "model_revision": str(config.revision or "main"),
            "vllm_version": vllm_version(),
            "routing_capture": self.capture,
            "steering": {"name": plan.name, "hash": plan.hash} if plan else None,
        }
