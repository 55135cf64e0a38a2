"""What a routed model holds besides its weights, whatever engine runs it: steering, capture, languages, identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval_moe._version import __version__
from lm_eval_moe.backends.answering import RequestAnswering
from lm_eval_moe.backends.arguments import capture_span, nothing_generated, resolve_plan
from lm_eval_moe.backends.capturing import Captured, CaptureRequest
from lm_eval_moe.backends.requests import LabelQueue, RequestLabel, TokenRequest, TokenRequests, labels_of
from lm_eval_moe.discovery import plugin_files
from lm_eval_moe.errors import UserError
from lm_eval_moe.harness.evaluating import route_evaluations
from lm_eval_moe.identity import Identity
from lm_eval_moe.identity.file_hashes import hash_of_files
from lm_eval_moe.identity.sources import source_files
from lm_eval_moe.pairing import PairingRegistry
from lm_eval_moe.recording import RowUse
from lm_eval_moe.replacing import replaced
from lm_eval_moe.steering.apply import Constants, Steerer
from lm_eval_moe.steering.coverage import Coverage

if TYPE_CHECKING:
    from torch import nn

    from lm_eval_moe.backends.base import KeyedTokens, TorchModules
    from lm_eval_moe.recording import Span
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringPlan, SteeringSpec

__all__ = ["RoutedState"]

_VERSIONS = ("lm_eval", "transformers", "tokenizers", "torch")
"""What all engines compute with, or read text with."""


class RoutedState(RequestAnswering):
    """Mixed into a backend's model class, before lm-eval's.

    A backend's ``__init__`` calls `_begin_capture` before it loads anything, and `set_steering` once it knows its
    routing shape. It says what it is (`backend_name`, `model_id`, `routing_shape`, `_own_parts`), runs requests by
    `_scores` and `_texts`, and gives their records to ``captured``.

    Attributes:
        routing_shape: The model's MoE layers, experts and top-k.
        registry: Knows which task is which language.
        captured: What was recorded: inside `capturing`, what was asked for there; outside, all that ran since the
            steering or the captured span was last set.
        coverage: What the plan in force steers of a request; None for the model as it is.
        fills_batches: Whether the engine makes its own batches from all that it is given: it is given as much as
            possible then (``batch_size=auto``) where nobody says otherwise.
    """

    fills_batches: bool = False
    backend_name: str
    routing_shape: RoutingShape
    rank: int
    world_size: int
    batch_size: Any
    max_length: int
    tokenizer: Any
    think_end_token: str | int | None = None
    _loglikelihood_tokens: Callable[..., list[tuple[float, bool]]]  # as all of lm-eval's models with a tokenizer
    _encode_pair: Callable[..., tuple[list[int], list[int]]]

    def _begin_capture(self, capture: str | bool, parallel: str | Sequence[str], think_end: str | int | None) -> None:
        route_evaluations(type(self))
        self._span: Span | None = capture_span(capture, think_end)
        self._parallel: list[Path] = []
        self.add_parallel([parallel] if isinstance(parallel, str) else parallel)
        self.captured = Captured()
        self._labels = LabelQueue()
        self._begin_answers()

    # ------------------------------------------------------------------ what a backend may know better

    @classmethod
    def modules_before_loading(cls, arguments: Mapping[str, Any]) -> nn.Module | None:
        """Return None: there are no modules to look at without weights."""
        return None

    def torch_modules(self) -> TorchModules | None:
        """Return None: there are no modules to look at from outside."""
        return None

    def trust_files(self) -> None:
        """Do nothing: the identity does not depend on who else holds the model."""

    def _own_parts(self) -> dict[str, Any]:
        """Return the parts of the identity that cannot be changed on a loaded model."""
        raise NotImplementedError

    # ------------------------------------------------------------------ steering and capture

    @property
    def steering(self) -> SteeringPlan | None:
        """The plan in force, None for the model as it is."""
        return self._plan

    def set_steering(self, steering: str | Path | SteeringSpec | SteeringPlan | None) -> None:
        """Change the steering of the loaded model, or end it with None; what was recorded so far is forgotten.

        Raises:
            UserError: The steering does not fit the model's shape.
        """
        self._plan = self._resolved(steering)
        self.captured.clear()  # records of two steerings would add up
        self.coverage = Coverage(self._plan) if self._plan is not None else None
        self._steering_constants: Constants = {}

    def _resolved(self, steering: str | Path | SteeringSpec | SteeringPlan | None) -> SteeringPlan | None:
        """Return steering as a plan that the backend can follow."""
        return resolve_plan(steering, self.routing_shape)

    @property
    def capture(self) -> str:
        """The captured span: ``prompt``, ``thinking``, ``continuation``, ``all`` or ``off``."""
        return self._span or "off"

    def set_capture(self, capture: str | bool) -> None:
        """Change which tokens' routing is recorded from now on; what was recorded so far is forgotten.

        Raises:
            UserError: There is no such span, or the model does not say where its thinking ends.
        """
        self._span = capture_span(capture, self.think_end_token)
        self.captured.clear()

    @contextmanager
    def capturing(self, request: CaptureRequest) -> Iterator[Captured]:
        """Record what a request asks for inside the ``with`` block, into what it yields."""
        with replaced(self, "captured", Captured(request)):
            yield self.captured

    def add_parallel(self, files: Sequence[str | Path]) -> None:
        """Read further files that say which task is which language; they come before those known so far."""
        self._parallel = [*map(Path, files), *self._parallel]
        self.registry = PairingRegistry.default(self._parallel)
        self._languages: dict[str, str | None] = {}  # by task, as the registry knows it

    def language_of(self, task: str | None) -> str | None:
        """Return the canonical language of a task, None where neither the run nor the parallel data file says it."""
        if task is None:
            return None
        languages = self.captured.request.languages
        if task in languages:
            return languages[task]
        if task not in self._languages:
            pairing = self.registry.pairing(task)
            self._languages[task] = pairing.language if pairing else None
        return self._languages[task]

    # ------------------------------------------------------------------ identity

    def identity(self) -> Identity:
        """Return what the model's answers and their records depend on besides the requests and the run's settings.

        Raises:
            UserError: A file that the model comes from is not there any more.
        """
        plugins = {
            name: hash_of_files(sorted({part for file in files for part in (file, *source_files(file))}))
            for name, files in plugin_files(type(self).__module__).items()
        }
        shared = {
            "model.backend": self.backend_name,
            "prompts.max_length": self.max_length,
            "computation.batch_size": self.batch_size,
            "computation.processes": self.world_size,
            "versions.lm_eval_moe": __version__,
            "versions.plugins": plugins or None,
            **{f"versions.{name}": version(name) for name in _VERSIONS},
        }
        return Identity({**shared, **self._own_parts(), **self.changeable_parts()})

    def changeable_parts(self, request: CaptureRequest | None = None) -> dict[str, Any]:
        """Return the parts of the identity that can be changed on a loaded model: steering and what is captured.

        Args:
            request: What will be recorded; by default what is now.
        """
        capture_request = request or self.captured.request
        return {
            "steering.hash": self._plan.hash if self._plan else None,
            "capture.span": self.capture,
            "capture.arrays": sorted(capture_request.arrays) + (["changes"] if capture_request.changes else []),
        }

    # ------------------------------------------------------------------ running

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations; each request's routing is recorded under its task, document and index."""
        self._check_span(requests)
        with self._labelled(labels_of(requests)):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)  # type: ignore[misc]

    def score_tokens(self, requests: Sequence[KeyedTokens]) -> list[tuple[float, bool]]:
        """Score continuations that are given as tokens; their routing is recorded under their keys."""
        with self._labelled([RequestLabel(key, key.task) for key, _, _ in requests]):
            return self._loglikelihood_tokens([(None, *tokens) for _, *tokens in requests], disable_tqdm=True)

    def _token_requests(self, requests: Sequence[TokenRequest], longest: int) -> TokenRequests:
        """Return the requests that `_loglikelihood_tokens` is given with their labels and languages.

        Args:
            requests: The requests.
            longest: Tokens that the model takes before the last one of a text.
        """
        labels = self._labels.take(len(requests))
        return TokenRequests(requests, labels, [self._language_for_steering(label.task) for label in labels], longest)

    def _labelled(self, labels: Sequence[RequestLabel]) -> AbstractContextManager[None]:
        """Name the token requests that `_loglikelihood_tokens` will be given, in that order."""
        return replaced(self, "_labels", LabelQueue(labels))

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context and of what follows it, as lm-eval tells them apart."""
        return self._encode_pair(context, continuation)

    def vocabulary(self) -> list[int]:
        """Return the tokens that texts are made of, ascending; special ones are not among them."""
        return sorted(set(self.tokenizer.get_vocab().values()) - set(self.tokenizer.all_special_ids))

    # ------------------------------------------------------------------ the process group

    def gather(self, value: Any) -> list[Any]:
        """Return the objects of all processes, in every process. All of them call it."""
        if self.world_size == 1:
            return [value]
        import torch.distributed

        parts: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(parts, value)
        return parts

    # ------------------------------------------------------------------ for the backend's own use

    def _check_span(self, requests: Sequence[Any]) -> None:
        """Refuse to look for thinking in texts that are there already."""
        if self._span == "thinking" and requests:
            raise nothing_generated(requests[0].task_name)

    def _language_for_steering(self, task: str | None) -> str | None:
        language = self.language_of(task)
        for plan in self._plans if language is None else ():
            if plan is None or all(i.languages.is_all for i in plan.interventions):
                continue
            raise UserError(
                f"the steering {plan.name!r} is limited to some languages, but the language of task {task!r} is "
                "unknown",
                fix="add `routing: {language: ..}` to the task's metadata, or list the task in a file given with "
                "--parallel",
            )
        return language

    @property
    def _active(self) -> bool:
        return self._listens or self.response_cache is not None

    @property
    def _listens(self) -> bool:
        """Whether anything is recorded or steered."""
        return self._span is not None or any(plan is not None for plan in self._plans)

    def _wants(self, use: RowUse) -> bool:
        return self.captured.request.wants(use.key)

    def _new_steerer(self) -> Steerer | None:
        return Steerer(self._plans, self._steering_constants) if any(self._plans) else None
