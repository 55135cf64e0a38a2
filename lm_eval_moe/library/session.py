"""All `steer` and `capture` blocks around one model: what they want, and the passes that are heard for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import StoppingCriteriaList

from lm_eval_moe.backends.hf.caches import NAMES, kept_in
from lm_eval_moe.backends.hf.probe import probe
from lm_eval_moe.backends.hf.uncompiled import generating_module, uncompiled
from lm_eval_moe.backends.passes import RoutedPasses
from lm_eval_moe.errors import UserError
from lm_eval_moe.library.rows import GenerationState, Rows
from lm_eval_moe.recording import Recorder, Steered
from lm_eval_moe.replacing import replaced
from lm_eval_moe.routers import find_sites, intercepted, routing_shape
from lm_eval_moe.routers.sites import encoder_decoder_error
from lm_eval_moe.steering.apply import Steerer

if TYPE_CHECKING:
    from lm_eval_moe.library.routing import RowRecords
    from lm_eval_moe.steering.plan import SteeringPlan

__all__ = ["Session", "session_of"]

# Passes after which it is looked whether router logits were finite: a GPU waits for each look.
_TOGETHER = 16

_MODES = ("greedy_search", "sample")


def session_of(model: Any) -> Session:
    """Return the session of a model, a new one if no block is around it.

    Raises:
        UserError: It is not a model of transformers, routes nowhere, or in a way that cannot be intercepted.
    """
    core = generating_module(model)
    if not isinstance(core, torch.nn.Module) or not hasattr(core, "config"):
        raise UserError(
            f"expected a model of transformers, got {type(model).__name__}",
            fix="give the loaded model itself, first; that of an HFMoE is its attribute `model`",
        )
    # Only while a block is around it: a model may be altered between two, and its routers be others.
    session = _SESSIONS.get(core)
    return Session(core) if session is None else session


class Session:
    """One model with blocks around it.

    Whenever a block begins or ends, what is heard ends, and is heard again for those that are left: a row that
    continues under other steering is another row.

    Args:
        model: The module that is called for each pass.

    Attributes:
        shape: Its routing shape.
    """

    def __init__(self, model: Any) -> None:
        if getattr(model.config, "is_encoder_decoder", False):
            raise encoder_decoder_error(type(model).__name__)
        self._model = model
        self._sites = find_sites(model)
        self.shape = routing_shape(model, self._sites)
        self._scoring = probe(model, self._sites, self.shape, _device_of(model))
        self._plans: list[tuple[SteeringPlan, str | None]] = []
        self._captures: list[list[RowRecords]] = []
        self._generating: GenerationState | None = None
        self._listening: _PassListener | None = None
        self._hooks = ExitStack()

    @contextmanager
    def steering(self, plan: SteeringPlan, language: str | None) -> Iterator[None]:
        """Steer inside the ``with`` block, after what blocks around it change."""
        seeds = {planned.seed for planned, _ in (*self._plans, (plan, None))}
        languages = {plan_language for _, plan_language in self._plans} | {language}
        if len(seeds) > 1 or len(languages) > 1:
            raise UserError(
                f"nested steering has different settings: seeds {sorted(seeds)}, languages "
                f"{sorted(map(str, languages))}",
                fix="give both the same `seed`, and the same language",
            )
        with self._around(self._plans, (plan, language)):
            yield

    @contextmanager
    def capturing(self, rows: list[RowRecords]) -> Iterator[None]:
        """Add the rows of the passes inside the ``with`` block to a list when it ends."""
        with self._around(self._captures, rows):
            yield

    @contextmanager
    def _around(self, entries: list[Any], one: Any) -> Iterator[None]:
        if self._generating is not None:
            raise UserError("a block begins while generate is running", fix="put it around the call to generate")
        if _SESSIONS.get(self._model, self) is not self:
            raise RuntimeError("another block has begun around the model meanwhile")
        self._end_listening()
        try:
            if not self._plans and not self._captures:
                _SESSIONS[self._model] = self
                self._hook()
            entries.append(one)
            yield
            self._end_listening()
        finally:
            self._abandon_listening()
            # By identity: what is equal may be that of a block around this one.
            entries[:] = [entry for entry in entries if entry is not one]
            if not self._plans and not self._captures:
                self._hooks.close()
                _SESSIONS.pop(self._model, None)

    def _hook(self) -> None:
        model = self._model
        stack = self._hooks
        stack.enter_context(uncompiled(model))
        stack.enter_context(replaced(model, "forward", self._forward(model.forward)))
        if hasattr(model, "_get_stopping_criteria"):
            criteria = self._criteria(model._get_stopping_criteria)
            stack.enter_context(replaced(model, "generate", self._generate(model.generate)))
            stack.enter_context(replaced(model, "_get_stopping_criteria", criteria))

    def _forward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)  # transformers reads the signature
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._listening is None:
                self._listening = _PassListener(self._sites, self.shape, self._scoring, self._plans, self._captures)
            listening = self._listening
            try:
                cache = next((kwargs[name] for name in NAMES if kwargs.get(name) is not None), None)
                listening.begin_pass(*_tokens(args, kwargs), cache, self._generating)
                out = original(*args, **kwargs)
                output_cache = kept_in(out)
                listening.end_pass(cache if output_cache is None else output_cache)
            except BaseException:
                self._abandon_listening()
                raise
            return out

        return forward

    def _generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            with replaced(self, "_generating", GenerationState()):
                return original(*args, **kwargs)

        return generate

    def _criteria(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def criteria(generation_config: Any, *args: Any, **kwargs: Any) -> Any:
            mode = str(generation_config.get_generation_mode().value)
            if mode not in _MODES:
                raise UserError(
                    f"generate searches by {mode.replace('_', ' ')}, which feeds tokens that belong to no single row",
                    fix="use greedy search or sampling (num_beams=1, no assistant)",
                )
            stock = original(generation_config, *args, **kwargs)
            return stock if self._generating is None else _ReportingCriteria(stock, self._generating)

        return criteria

    def _end_listening(self) -> None:
        """Give the rows that were heard to all that capture, and hear again."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.close()

    def _abandon_listening(self) -> None:
        """End hearing after an error: what the pass that was cut off has computed is nobody's, all before it stays."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.abandon()


class _PassListener:
    """Hears passes from one change of the blocks to the next."""

    def __init__(
        self,
        sites: Any,
        shape: Any,
        scoring: str | None,
        plans: list[tuple[SteeringPlan, str | None]],
        captures: list[list[RowRecords]],
    ) -> None:
        language = plans[0][1] if plans else None
        self._rows = Rows(Steered(language=language))
        self._captures = list(captures)
        self._recorder = None
        if captures:
            skips = any(site.block.extra for site in sites)
            self._recorder = Recorder(
                self._rows.forest, len(sites), shape.experts, sigmoid=scoring == "sigmoid", skips=skips
            )
        plan = _in_turn([plan for plan, _ in plans])
        self._needs_tokens = plan is not None and any(
            intervention.action.needs_noise for intervention in plan.interventions
        )
        self._passes = RoutedPasses(
            self._recorder,
            Steerer([plan]) if plan is not None else None,
            layers=shape.layers,
            forest=self._rows.forest,
            requests={},
            calls=len(sites),
            together=_TOGETHER,
        )
        self._stack = ExitStack()
        self._stack.enter_context(intercepted(sites, self._passes, top_k=shape.top_k))

    def begin_pass(
        self, tokens: Any, embedded: bool, mask: Any, cache: Any, generating: GenerationState | None
    ) -> None:
        if embedded and self._needs_tokens:
            raise UserError(
                "activate and deactivate derive their noise from the tokens, but the model was given embeddings",
                fix="give it input_ids, or use another action",
            )
        rows = self._rows.begin_pass(tuple(tokens.shape), mask, cache, generating)
        self._passes.start_pass(tokens, rows)

    def end_pass(self, cache: Any) -> None:
        self._passes.end_pass()
        self._rows.end_pass(cache)
        self._rows.collect(self._recorder, everything=False)

    def close(self) -> None:
        """End hearing: every pass was whole."""
        self._stack.close()
        self._passes.look()
        self._deliver()

    def abandon(self) -> None:
        """End hearing where an error came in between: the rows of the pass that was cut off are nobody's."""
        error = RuntimeError("cut off")
        self._stack.__exit__(type(error), error, None)
        self._rows.drop_pass()
        self._deliver()

    def _deliver(self) -> None:
        self._rows.collect(self._recorder, everything=True)
        for rows in self._captures:
            rows += self._rows.records()


class _ReportingCriteria(StoppingCriteriaList):
    """The stopping criteria of a generation, which tell what they say."""

    def __init__(self, criteria: StoppingCriteriaList, generating: GenerationState) -> None:
        super().__init__(criteria)
        self._generating = generating

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        ended = super().__call__(input_ids, scores, **kwargs)
        self._generating.mark_ended(ended.tolist())
        return ended


def _tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool, Any]:
    """Return a pass's tokens ``[B, T]``, whether they are but places for embeddings, and where they count.

    Raises:
        UserError: The mask is of another form.
    """
    tokens: Any = kwargs.get("input_ids", args[0] if args else None)
    embedded = tokens is None
    if embedded:
        embeds = kwargs["inputs_embeds"]
        tokens = torch.zeros(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
    rows, width = tokens.shape
    if mask is None:
        return tokens, embedded, np.ones((rows, width), dtype=bool)
    if not isinstance(mask, torch.Tensor) or mask.dim() != 2 or mask.shape[1] < width:
        form = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise UserError(
            f"an attention mask of the form {form} does not say which of the {width} tokens of each row are padding",
            fix="give the model a mask of shape [rows, tokens], and generate without a static cache "
            "(cache_implementation)",
        )
    return tokens, embedded, mask[:, -width:].bool().cpu().numpy()


def _in_turn(plans: list[SteeringPlan]) -> SteeringPlan | None:
    """Return one plan that does what several do one after another."""
    every = [intervention for plan in plans for intervention in plan.interventions]
    numbered = tuple(replace(intervention, index=index) for index, intervention in enumerate(every))
    return replace(plans[0], interventions=numbered) if plans else None


def _device_of(model: Any) -> torch.device:
    embeddings = model.get_input_embeddings().weight
    return torch.device("cpu") if embeddings.is_meta else embeddings.device


_SESSIONS: WeakKeyDictionary[Any, Session] = WeakKeyDictionary()
