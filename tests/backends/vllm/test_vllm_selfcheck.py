"""The check that a worker of vLLM makes of itself, on a toy model whose routers are broken in one way after another."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lm_eval_moe.backends.vllm.operators import Routers
from lm_eval_moe.backends.vllm.selfcheck import check_routers, copies_of
from lm_eval_moe.errors import RoutingBypassedError

EXPERTS, TOP_K, WIDTH, TOKENS = 8, 2, 16, 6


def select(hidden: Tensor, logits: Tensor, dtype: Any = None, *, input_ids: Any = None) -> tuple[Tensor, Tensor]:
    return torch.topk(torch.softmax(logits, -1), TOP_K)


class Toy:
    """Three layers of vLLM's making: a router and one vector for each expert."""

    def __init__(self, select: Callable[..., tuple[Tensor, Tensor]] = select) -> None:
        torch.manual_seed(0)
        self.gates, self.experts = torch.randn(3, WIDTH, EXPERTS), torch.randn(3, EXPERTS, WIDTH)
        self.runners = [
            SimpleNamespace(layer_id=layer, router=SimpleNamespace(select_experts=select)) for layer in (1, 2, 5)
        ]
        self.passes = 0

    def run(self) -> list[Tensor]:
        self.passes += 1
        hidden = torch.linspace(-1, 1, TOKENS * WIDTH).reshape(TOKENS, WIDTH)
        for number, runner in enumerate(self.runners):
            hidden = hidden + self.layer(number, runner, hidden)
        return copies_of(hidden)

    def layer(self, number: int, runner: Any, hidden: Tensor) -> Tensor:
        weights, indices = runner.router.select_experts(hidden, hidden @ self.gates[number])
        return (weights[..., None] * self.experts[number][indices]).sum(1)


def check(toy: Toy, *, experts: int = EXPERTS, top_k: int = TOP_K, after: Callable[[], None] = lambda: None) -> Routers:
    routers = Routers(toy.runners)
    after()
    check_routers(routers, experts, top_k, toy.run)
    return routers


def test_routers_that_are_heard_and_obey_pass_and_nothing_is_left_behind() -> None:
    toy = Toy()
    before = Toy().run()
    routers = check(toy)
    assert routers.failure is None
    assert torch.equal(before[0], toy.run()[0])


def test_a_worker_without_routers_has_nothing_to_prove() -> None:
    toy = Toy()
    toy.runners = []
    check(toy, experts=0, top_k=0)
    assert toy.passes == 0


def test_a_router_that_was_put_back_is_named() -> None:
    toy = Toy()

    def put_back() -> None:
        toy.runners[1].router.select_experts = select

    with pytest.raises(RoutingBypassedError, match=r"in layer 2 of .* runs without being observed(?s:.)*enforce_eager"):
        check(toy, after=put_back)


def test_a_model_that_goes_on_with_code_from_before_the_wrapping_is_refused() -> None:
    toy = Toy()
    compiled = [runner.router.select_experts for runner in toy.runners]

    def layer(number: int, runner: Any, hidden: Tensor) -> Tensor:
        weights, indices = compiled[number](hidden, hidden @ toy.gates[number])
        return (weights[..., None] * toy.experts[number][indices]).sum(1)

    toy.layer = layer  # type: ignore[method-assign]
    with pytest.raises(RoutingBypassedError, match="in layers 1-2, 5 of"):
        check(toy)


def test_a_router_that_runs_twice_is_refused() -> None:
    toy = Toy()
    once = toy.layer

    def layer(number: int, runner: Any, hidden: Tensor) -> Tensor:
        return once(number, runner, hidden) + (once(number, runner, hidden) if number == 2 else 0)

    toy.layer = layer  # type: ignore[method-assign]
    with pytest.raises(RoutingBypassedError, match=r"in layer 5 of .* exactly once"):
        check(toy)


def test_a_selection_that_does_not_go_by_the_logits_is_refused() -> None:
    def by_hidden(hidden: Tensor, logits: Tensor, dtype: Any = None, *, input_ids: Any = None) -> tuple[Tensor, Tensor]:
        return torch.topk(torch.softmax(hidden[:, :EXPERTS], -1), TOP_K)

    with pytest.raises(RoutingBypassedError, match=r"layers 1-2, 5 .* selects the experts that were banned"):
        check(Toy(by_hidden))


def test_the_order_of_a_selection_does_not_count_as_another_one() -> None:
    def shuffled(hidden: Tensor, logits: Tensor, dtype: Any = None, *, input_ids: Any = None) -> tuple[Tensor, Tensor]:
        weights, indices = torch.topk(torch.softmax(hidden[:, :EXPERTS], -1), TOP_K)
        banned = bool((logits < -1e3).any())
        return (weights.flip(-1), indices.flip(-1)) if banned else (weights, indices)

    with pytest.raises(RoutingBypassedError, match="selects the experts that were banned"):
        check(Toy(shuffled))


def test_routers_that_select_all_experts_cannot_be_told_otherwise() -> None:
    def everything(
        hidden: Tensor, logits: Tensor, dtype: Any = None, *, input_ids: Any = None
    ) -> tuple[Tensor, Tensor]:
        return torch.topk(torch.softmax(logits, -1), EXPERTS)

    check(Toy(everything), top_k=EXPERTS)


@pytest.mark.parametrize(
    ("experts", "top_k", "message"),
    [(EXPERTS + 1, TOP_K, "not one for each of 9 experts"), (EXPERTS, TOP_K + 1, "8 logits and 3 selected")],
)
def test_other_sizes_than_the_configs_are_refused(experts: int, top_k: int, message: str) -> None:
    with pytest.raises(RoutingBypassedError, match=message):
        check(Toy(), experts=experts, top_k=top_k)


def test_listening_that_changes_the_output_is_refused() -> None:
    toy = Toy()
    plain = toy.run

    def run() -> list[Tensor]:
        return [each + (toy.passes == 3) for each in plain()]  # two passes without a listener come before

    toy.run = run  # type: ignore[method-assign]
    with pytest.raises(RoutingBypassedError, match="although nothing is modified"):
        check(toy)


def test_experts_that_receive_another_selection_than_the_one_that_is_heard_are_refused() -> None:
    toy = Toy()

    def layer(number: int, runner: Any, hidden: Tensor) -> Tensor:
        runner.router.select_experts(hidden, hidden @ toy.gates[number])
        weights, indices = select(hidden, hidden @ toy.gates[number])
        return (weights[..., None] * toy.experts[number][indices]).sum(1)

    toy.layer = layer  # type: ignore[method-assign]
    with pytest.raises(RoutingBypassedError, match="the experts receive a different selection"):
        check(toy)


def test_a_model_that_never_gives_the_same_bits_is_not_held_to_them() -> None:
    toy = Toy()
    plain = toy.run

    def run() -> list[Tensor]:
        return [each + toy.passes for each in plain()]

    toy.run = run  # type: ignore[method-assign]
    check(toy)


def test_what_a_stage_of_a_pipeline_puts_out_is_copied() -> None:
    one, other = torch.ones(2), torch.zeros(3)
    copies = copies_of(SimpleNamespace(tensors={"hidden_states": one, "residual": other}))
    one.add_(1)
    assert [each.tolist() for each in copies] == [[1.0, 1.0], [0.0, 0.0, 0.0]]
    assert [each.tolist() for each in copies_of((one, other))] == [[2.0, 2.0], [0.0, 0.0, 0.0]]
