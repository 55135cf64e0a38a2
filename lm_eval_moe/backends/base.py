"""What every backend's model offers, and all that evaluation, profiling, sweeps, the doctor and the cache rely on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

if TYPE_CHECKING:
    from pathlib import Path

    from torch import device, nn

    from lm_eval_moe.backends.cache import ResponseCache
    from lm_eval_moe.backends.capturing import Captured, CaptureRequest
    from lm_eval_moe.capture import RequestKey
    from lm_eval_moe.identity import Identity
    from lm_eval_moe.parallel import ParallelRegistry
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
    """

    model: nn.Module
    step: nn.Module
    sites: tuple[RouterSite, ...]
    device: device
    running: Callable[[], AbstractContextManager[Any]]
    scoring: Callable[[], str | None]
    end_tokens: frozenset[int]


class RoutedModel(Protocol):
    """One of lm-eval's models, whose routing is captured and, if asked for, steered.

    `RoutedState` is most of it. The class takes ``pretrained``, ``steering``, ``capture``, ``parallel``, ``batch_size``
    and ``device`` among its arguments.
    """

    backend_name: str
    """By which it is registered."""
    routing_shape: RoutingShape
    registry: ParallelRegistry
    """Knows which task is which language."""
    coverage: Coverage | None
    """What the plan in force steers of a request; None for the model as it is."""

    def __init__(self, **arguments: Any) -> None: ...

    # ------------------------------------------------------------------ before weights are loaded

    @classmethod
    def shape_before_loading(cls, arguments: Mapping[str, Any]) -> RoutingShape:
        """Return the routing shape that a model with these arguments will have."""
        ...

    @classmethod
    def modules_before_loading(cls, arguments: Mapping[str, Any]) -> nn.Module | None:
        """Return a model's torch modules without weights, None where the backend has none."""
        ...

    # ------------------------------------------------------------------ what it is

    @property
    def model_id(self) -> str:
        """What names it in profiles."""
        ...

    def identity(self) -> Identity:
        """Return what answers and their records depend on besides the requests and the run's settings."""
        ...

    def changeable_parts(self, request: CaptureRequest | None = None) -> dict[str, Any]:
        """Return the parts of the identity that can be changed on a loaded model, with those of a capture request."""
        ...

    def trust_files(self) -> None:
        """Let the files that it was loaded from stand for its weights: nobody else holds it."""
        ...

    def torch_modules(self) -> TorchModules | None:
        """Return its torch modules, None where they cannot be looked at from outside."""
        ...

    # ------------------------------------------------------------------ steering and capture

    @property
    def steering(self) -> SteeringPlan | None:
        """The plan in force, None for the model as it is."""
        ...

    def set_steering(self, steering: str | Path | SteeringSpec | SteeringPlan | None) -> None:
        """Change the steering, or end it with None."""
        ...

    @property
    def capture(self) -> str:
        """The captured span: ``prompt``, ``thinking``, ``continuation``, ``all`` or ``off``."""
        ...

    def set_capture(self, capture: str | bool) -> None:
        """Change which tokens' routing is recorded from now on."""
        ...

    def add_parallel(self, files: Sequence[str | Path]) -> None:
        """Read further files that say which task is which language."""
        ...

    def capturing(self, request: CaptureRequest) -> AbstractContextManager[Captured]:
        """Record what a request asks for inside the ``with`` block, into what it yields."""
        ...

    def set_response_cache(self, cache: ResponseCache | None, seeds: Mapping[str, Any] | None = None) -> None:
        """Answer from a cache, and keep in it what is computed, until this is called with None."""
        ...

    # ------------------------------------------------------------------ running

    @property
    def batch_size(self) -> int | str:
        """Requests a batch; a word where it is found by trying."""
        ...

    def at_batch_size(self, size: int) -> AbstractContextManager[None]:
        """Run batches of a size inside the ``with`` block."""
        ...

    @property
    def max_length(self) -> int:
        """Tokens that a pass takes at most."""
        ...

    @property
    def prefix_token_id(self) -> int:
        """What comes before a text that has nothing before it."""
        ...

    def tok_encode(self, string: str, **kwargs: Any) -> list[int]:
        """Return the tokens of a text."""
        ...

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context and of what follows it."""
        ...

    def score_tokens(self, requests: Sequence[KeyedTokens]) -> Sequence[tuple[float, bool]]:
        """Score continuations that are given as tokens; their routing is recorded under their keys."""
        ...

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations, as lm-eval asks for it."""
        ...

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate, as lm-eval asks for it."""
        ...

    # ------------------------------------------------------------------ the process group

    @property
    def rank(self) -> int:
        """Which of the processes that share the requests this is."""
        ...

    @property
    def world_size(self) -> int:
        """How many there are."""
        ...

    def gather(self, own: Any) -> list[Any]:
        """Return the objects of all processes, in every process. All of them call it."""
        ...


def missing_from(model: object) -> list[str]:
    """Return what of `RoutedModel` a model lacks, whatever class it is of."""
    offered = {*vars(RoutedModel), *RoutedModel.__annotations__}
    return sorted(name for name in offered if name[0] != "_" and not hasattr(model, name))


def is_routed(model: object) -> TypeGuard[RoutedModel]:
    """Whether a model is a routed one: whatever class it is of, it offers all that `RoutedModel` says."""
    # Some of lm-eval's models raise where they are asked for what they do not have.
    return hasattr(model, "capturing") and not missing_from(model)
