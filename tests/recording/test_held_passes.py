"""Passes are reduced together: nothing that is read of them shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from lm_eval_moe.recording import Forest, Recorder, recorder
from lm_eval_moe.recording.token_rows import NONE, Steered, TokenRows

LAYERS, EXPERTS, TOP_K = 3, 8, 2
ROUTERS, TARGETED = torch.tensor([True, False, True]), torch.eye(LAYERS, EXPERTS).bool()

STEPS = [(0, 0, 0, 1, 1, NONE), *[(0, NONE, 1, NONE, NONE, NONE)] * 3, (2, NONE, 1, NONE, NONE, NONE), (2, 1), (2, 1)]
"""Two prompts; steps of decoding; in the midst of it one row goes on in a segment of its own, and padding goes."""


def decoded(read: Callable[[Recorder], Any] = lambda recorder: None) -> list[Any]:
    """Run the steps, asking after each pass; return the sums of both rows."""
    generator = torch.Generator().manual_seed(0)
    forest = Forest()
    first, _ = forest.add(), forest.add()
    forest.add(first, Steered(generated=True))
    summing = Recorder(forest, LAYERS, EXPERTS)
    for number, step in enumerate(STEPS):
        here = torch.tensor([place % 2 == 0 for place in range(len(step))])
        tokens = None if number % 2 else here

        def targets(at: slice, rows: torch.Tensor, number: int = number, tokens: Any = tokens) -> list[Any]:
            return [(ROUTERS[at], TARGETED[at], tokens)] if number != 3 else []

        summing.start_pass(forest.begin_pass(np.array(step)), targets)
        for position in range(LAYERS):
            logits = torch.randn(len(step), EXPERTS, generator=generator)
            weights, indices = logits.softmax(-1).topk(TOP_K)
            weights[torch.tensor(step) == NONE] = torch.nan
            summing.logits(position, logits)
            if position == 2 and number != 3:
                summing.unchanged(position, logits.neg().topk(TOP_K).indices)
            summing.selection(position, indices, weights)
        summing.end_pass()
        read(summing)
    return summing.sums_of([[0, 2], [1]])


def equal(ours: Any, expected: Any) -> bool:
    return all(
        np.array_equal(getattr(mine, field.name), getattr(theirs, field.name))
        for mine, theirs in zip(ours, expected, strict=True)
        for field in fields(mine)
    )


def test_passes_reduced_together_give_the_sums_of_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    together = decoded()
    asked_after_each = decoded(lambda summing: summing.sums_of([[0]]))
    monkeypatch.setattr(recorder, "_BUFFER", 1)
    layer_by_layer = decoded()
    assert together[0].changed.sum() > 0
    assert equal(together, asked_after_each)
    assert equal(together, layer_by_layer)


def test_what_ran_in_inference_mode_is_read_outside_of_it() -> None:
    expected = decoded()
    forest = Forest()
    summing = Recorder(forest, 1, EXPERTS)
    segment = forest.add()

    def run() -> None:
        summing.start_pass(forest.begin_pass(np.array([segment])))
        summing.logits(0, torch.zeros(1, EXPERTS))
        summing.selection(0, torch.tensor([[1, 2]]), torch.full((1, 2), 0.5))
        summing.end_pass()

    with torch.inference_mode():
        assert equal(decoded(), expected)
        run()
    run()
    (sums,) = summing.sums_of([[segment]])
    with torch.inference_mode():
        run()
        (more,) = summing.sums_of([[segment]])
    assert (sums.counts.sum(), more.counts.sum()) == (4, 6)


def test_what_a_pass_gave_is_taken_at_its_end() -> None:
    forest = Forest()
    summing = Recorder(forest, 1, EXPERTS, arrays={"counts"})
    segment = forest.add()
    # As the outputs of a graph that is replayed, they are written over by the next pass.
    indices, weights = torch.empty(1, 2, dtype=torch.long), torch.full((1, 2), 0.5)
    for chosen in ((0, 1), (2, 3)):
        summing.start_pass(forest.begin_pass(np.array([segment])))
        indices[0] = torch.tensor(chosen)
        summing.selection(0, indices, weights)
        summing.end_pass()
    (sums,) = summing.sums_of([[segment]])
    assert sums.counts[0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_step_of_decoding_has_the_rows_of_any_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> list[TokenRows]:
        forest = Forest()
        first, _ = forest.add(), forest.add()
        forest.add(first, Steered(generated=True))
        return [forest.begin_pass(np.array(step)) for step in STEPS]

    fast = rows()
    assert fast[3].run is fast[2].run, "taken over from the step before"
    monkeypatch.setattr(Forest, "_next_step", lambda *_: None)
    for mine, theirs in zip(fast, rows(), strict=True):
        for field in fields(TokenRows):
            if not field.name.startswith("_"):
                assert np.array_equal(getattr(mine, field.name), getattr(theirs, field.name)), field.name


def test_a_segment_that_was_folded_does_not_go_on_as_before() -> None:
    forest = Forest()
    first = forest.add()
    second = forest.add(first)
    for segment in (first, second, second):
        forest.begin_pass(np.array([segment]))
    forest.fold([first, second])
    for position in (3, 4, 5):
        assert forest.begin_pass(np.array([first])).position.tolist() == [position]


def test_a_step_that_is_not_allowed_is_refused_as_any_pass() -> None:
    forest = Forest()
    first = forest.add()
    for _ in range(3):
        forest.begin_pass(np.array([first]))
    forest.begin_pass(np.array([forest.add(first), forest.add()]))
    with pytest.raises(ValueError, match="grows, though a segment that follows it has begun"):
        forest.begin_pass(np.array([first]))
