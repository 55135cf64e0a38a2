"""Workers that break what `RoutedWorker` proves of itself at the start."""

from __future__ import annotations

from typing import Any

from lm_eval_moe.backends.vllm.operators import wrap_routers
from lm_eval_moe.backends.vllm.worker import RoutedWorker

__all__ = ["TooLate", "Unreached"]


class Unreached(RoutedWorker):
    """The router of layer 1 is as vLLM made it."""

    def load_model(self, **arguments: Any) -> None:
        super().load_model(**arguments)
        put_back(self, [1])


class TooLate(RoutedWorker):
    """The routers are wrapped after the model was compiled."""

    def load_model(self, **arguments: Any) -> None:
        super().load_model(**arguments)
        put_back(self, list(self.routers.runners))

    def _check_routers(self) -> None:
        self.routers = wrap_routers(self.get_model())
        super()._check_routers()


def put_back(worker: RoutedWorker, layers: list[int]) -> None:
    for layer in layers:
        worker.routers.runners[layer].router.select_experts = worker.routers._select[layer]
