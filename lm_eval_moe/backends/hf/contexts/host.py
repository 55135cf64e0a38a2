"""What rows that share contexts rely on of the model class that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from lm_eval_moe.backends.capturing import Captured
    from lm_eval_moe.backends.passes import RoutedPasses
    from lm_eval_moe.capture import Forest, Recorder, RequestKey, RowUse, Span
    from lm_eval_moe.routers import RouterSite
    from lm_eval_moe.shape import RoutingShape
    from lm_eval_moe.steering import SteeringPlan

__all__ = ["Host"]


class Host(Protocol):
    """An `HFMoE`, which says what its attributes are."""

    model: Any
    softmax_dtype: torch.dtype | None
    routing_shape: RoutingShape
    captured: Captured
    _sites: tuple[RouterSite, ...]
    _span: Span | None

    @property
    def device(self) -> torch.device: ...
    @property
    def _plans(self) -> tuple[SteeringPlan | None, ...]: ...
    @property
    def _listens(self) -> bool: ...
    def _steered_as(self, language: str | None, use: RowUse) -> tuple[Any, ...]: ...
    def running(self) -> AbstractContextManager[None]: ...
    def listening(
        self,
        forest: Forest,
        wanted: bool,
        requests: Mapping[int, RequestKey],
        *,
        steered: bool = True,
        together: int = 1,
    ) -> tuple[RoutedPasses, Recorder | None]: ...
