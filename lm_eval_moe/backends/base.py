"""What every backend's model offers, and all that evaluation, profiling, sweeps, the doctor and the cache rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

if TYPE_CHECKING:
    from pathlib import Path

    from torch import device, nn

    from lm_eval_moe.backends.cache import ResponseCache
    from lm_eval_moe.backends.capturing import Captured, CaptureRequest
    from lm_eval_moe.identity import Identity
    from lm_eval_moe.pairing import PairingRegistry
    from lm_eval_moe.recording import RequestKey
    from lm_eval_moe.routers import RouterSite
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringPlan, SteeringSpec
    from lm_eval_moe.steering.coverage import Coverage

__all__ = ["KeyedTokens", "RoutedModel", "TorchModules", "is_routed", "missing_from"]

KeyedTokens = tuple["RequestKey", list[int], list[int]]
"""A request given as tokens: its key, its context and its continuation."""


@dataclass(frozen=True)
class TorchModules:
    """A model's torch modules in this process, for those who look at them from outside.

    Attributes:
        model: What is called for a pass over whole sequences.
        step: What is called for each pass of a generation.
        sites: Its routers.
        device: Where inputs go.
        running: Makes a context in which the modules run as they do in a pass of the backend.
        scoring: Runs the model once and returns what its logits go through before the selection; None: nothing.
        end_tokens: Tokens that end a generated answer.
        in_whole_batches: Makes a context in which no row of a generation leaves its batch before the others.
    """

    model: nn.Module
    step: nn.Module
    sites: tuple[RouterSite, ...]
    device: device
    running: Callable[[], AbstractContextManager[Any]]
    scoring: Callable[[], str | None]
    end_tokens: frozenset[int]
    in_whole_batches: Callable[[], AbstractContextManager[Any]] = nullcontext


class RoutedModel(Protocol):
    """One of lm-eval's models, whose routing is captured and, if asked for, steered.

    `RoutedState` is most of it, and says what its methods do. The class takes ``pretrained``, ``steering``,
    ``capture``, ``parallel``, ``batch_size`` and ``device`` among its arguments.

    Attributes:
        backend_name: By which it is registered.
        model_id: What names it in profiles.
        routing_shape: Its MoE layers, experts and top-k.
        registry: Knows which task is which language.
        coverage: What the plan in force steers of a request; None for the model as it is.
        steering: The plan in force.
        capture: The captured span: ``prompt``, ``thinking``, ``continuation``, ``all`` or ``off``.
        batch_size: Requests a batch; a word where it is found by trying.
        max_length: Tokens that a pass takes at most.
        prefix_token_id: What comes before a text that has nothing before it.
        plans_at_once: By how many plans it steers the requests of one batch; 1: `ahead` does nothing.
        rank: Which of the processes that share the requests this is.
        world_size: How many there are.
        fills_batches: Whether its engine makes its own batches from all that it is given.
        rows_at_once: How many rows to give at once where work is done part by part.
    """

    backend_name: str
    fills_batches: bool
    routing_shape: RoutingShape
    registry: PairingRegistry
    coverage: Coverage | None
    plans_at_once: int

    @property
    def model_id(self) -> str: ...
    @property
    def steering(self) -> SteeringPlan | None: ...
    @property
    def capture(self) -> str: ...
    @property
    def batch_size(self) -> int | str: ...
    @property
    def max_length(self) -> int: ...
    @property
    def prefix_token_id(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def world_size(self) -> int: ...
    @property
    def rows_at_once(self) -> int: ...

    def __init__(self, **arguments: Any) -> None: ...
    @classmethod
    def shape_before_loading(cls, arguments: Mapping[str, Any]) -> RoutingShape:
        """Return the routing shape that a model with these arguments will have, without loading its weights."""

    @classmethod
    def modules_before_loading(cls, arguments: Mapping[str, Any]) -> nn.Module | None: ...
    def torch_modules(self) -> TorchModules | None: ...
    def trust_files(self) -> None: ...
    def identity(self) -> Identity: ...
    def changeable_parts(self, request: CaptureRequest | None = None) -> dict[str, Any]: ...

    def set_steering(self, steering: str | Path | SteeringSpec | SteeringPlan | None) -> None: ...
    def ahead(self, plans: Sequence[SteeringPlan | None]) -> AbstractContextManager[None]: ...
    def set_capture(self, capture: str | bool) -> None: ...
    def add_parallel(self, files: Sequence[str | Path]) -> None: ...
    def capturing(self, request: CaptureRequest) -> AbstractContextManager[Captured]: ...
    def set_response_cache(self, cache: ResponseCache | None, seeds: Mapping[str, Any] | None = None) -> None: ...

    def at_batch_size(self, size: int) -> AbstractContextManager[None]: ...
    def tok_encode(self, string: str, **kwargs: Any) -> list[int]: ...
    def vocabulary(self) -> list[int]: ...
    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]: ...
    def score_tokens(self, requests: Sequence[KeyedTokens]) -> Sequence[tuple[float, bool]]: ...
    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]: ...
    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]: ...
    def gather(self, value: Any) -> list[Any]: ...


def missing_from(model: object) -> list[str]:
    """Return what of `RoutedModel` a model lacks, whatever class it is of."""
    offered = {*vars(RoutedModel), *RoutedModel.__annotations__}
    return sorted(name for name in offered if name[0] != "_" and not hasattr(model, name))


def is_routed(model: object) -> TypeGuard[RoutedModel]:
    """Whether a model is a routed one: whatever class it is of, it offers all that `RoutedModel` says."""
    # Some of lm-eval's models raise where they are asked for what they do not have.
    return hasattr(model, "capturing") and not missing_from(model)
