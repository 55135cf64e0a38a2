"""Workers with the faults that must not go unnoticed."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

from lm_eval_moe.backends.vllm.operators import wrap_routers
from lm_eval_moe.backends.vllm.worker import RoutedWorker


class ReversedOrder(RoutedWorker):
    """Takes the requests' rows to be in another order than they are."""

    def _order(self) -> list[str]:
        return super()._order()[::-1]


class Bypassed(RoutedWorker):
    """Runs the routers of one layer as they were before they were wrapped."""

    def load_model(self, **arguments: Any) -> None:
        super().load_model(**arguments)
        layer, runner = next(iter(self.routers.runners.items()))
        runner.router.select_experts = self.routers._select[layer]


class TooLate(RoutedWorker):
    """Wraps the routers when the model has been compiled."""

    def load_model(self, **arguments: Any) -> None:
        super().load_model(**arguments)
        for layer, runner in self.routers.runners.items():
            runner.router.select_experts = self.routers._select[layer]

    def _check_routers(self) -> None:
        self.routers = wrap_routers(self.get_model())
        super()._check_routers()


class Unsteered(RoutedWorker):
    """Records steered selections, though the experts receive others."""

    def load_model(self, **arguments: Any) -> None:
        super().load_model(**arguments)
        for module in self.get_model().modules():
            if isinstance(module, MoERunner):
                module.router.select_experts = _heard_in_vain(
                    module.router.select_experts, self.routers, module.layer_id
                )


def _heard_in_vain(wrapped: Any, routers: Any, layer: int) -> Any:
    def select_experts(*args: Any, **kwargs: Any) -> Any:
        wrapped(*args, **kwargs)
        return routers._select[layer](*args, **kwargs)

    return select_experts


class HoldsNothingBack(RoutedWorker):
    """Adds up the tokens of an answer as they come, though the engine may feed more than belong to it."""

    def routing_begin(self, settings: str | None) -> Any:
        answer = super().routing_begin(settings)
        if self.routing is not None:
            self.routing._books._held_back = 0
        return answer


class Faulty(RoutedWorker):
    """Fails in its books from the second request of more than 60 tokens on."""

    def routing_begin(self, settings: str | None) -> Any:
        answer = super().routing_begin(settings)
        if self.routing is not None:
            add = self.routing._books.add

            def failing(name: str, facts: Any, prompt: Any, *rest: Any) -> None:
                if len(prompt) > 60:
                    raise ZeroDivisionError("broken on purpose")
                add(name, facts, prompt, *rest)

            self.routing._books.add = failing  # type: ignore[method-assign]
        return answer
