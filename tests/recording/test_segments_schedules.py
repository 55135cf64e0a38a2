"""However requests are cut into passes and whatever they share: the same records, the same steered logits."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.keys_oracle import sequence_keys
from support.schedules import (
    EXPERTS,
    LAYERS,
    PLAN,
    SCHEDULES,
    SHAPE,
    TOP_K,
    Engine,
    Outcome,
    Request,
    model_logits,
    requests_of,
)

from lm_eval_moe.errors import RoutingBypassedError
from lm_eval_moe.recording import NONE, RoutingRecord
from lm_eval_moe.steering.noise import keyed_normal


@cache
def expected_logits(request: Request) -> np.ndarray:
    """The steered logits ``[T, L, E]`` of a request by the formulas of its plan, one token after another."""
    rows = []
    for position, key in enumerate(sequence_keys(request.tokens)):
        z = [model_logits(layer, request.tokens[: position + 1]).copy() for layer in range(LAYERS)]
        noise = 1e-3 * keyed_normal(5, SHAPE.layers[1], torch.tensor([key]), torch.tensor([0, 3, 6])).numpy()[0]
        generated = position >= len(request.prompt)
        z[1][[0, 3, 6]] = z[1].max() + noise
        if not generated and request.language == "sw":
            z[1][7] = -1e9
        if generated:
            z[2][[1, 2]] += np.float32(0.75) * z[2].std()
        rows.append(z)
    return np.array(rows)


def expected_record(request: Request, span: str) -> dict[str, np.ndarray | int]:
    """A record by its definitions, in plain loops over the steered logits."""
    logits = expected_logits(request).astype(np.float64)
    edge = len(request.prompt)
    places = {"prompt": range(edge), "continuation": range(edge, len(logits)), "all": range(len(logits))}[span]
    counts, mass, importance, dense = (np.zeros((LAYERS, EXPERTS)) for _ in range(4))
    overlap, pairs = np.zeros(LAYERS), 0
    before: list[set[int]] | None = None
    for place in places:
        chosen = []
        for layer in range(LAYERS):
            scores = np.exp(logits[place, layer] - logits[place, layer].max())
            scores /= scores.sum()
            top = np.argsort(-logits[place, layer], kind="stable")[:TOP_K]
            counts[layer, top] += 1
            mass[layer, top] += scores[top]
            importance[layer, top] += scores[top] / scores[top].sum() / len(places)
            dense[layer] += scores / len(places)
            chosen.append(set(top.tolist()))
        if before is not None:
            pairs += 1
            overlap += [len(a & b) / len(a | b) for a, b in zip(before, chosen, strict=True)]
        before = chosen
    with np.errstate(invalid="ignore"):
        return {
            "tokens": len(places),
            "counts": counts,
            "gate_mass": mass,
            "importance": importance,
            "importance_dense": dense,
            "overlap": overlap / pairs if pairs else np.full(LAYERS, np.nan),
        }


def expected_steering(request: Request) -> dict[str, list[int]]:
    """At how many tokens an intervention is in force, reaches a target, and changes the selection, layer by layer."""
    steered = expected_logits(request)
    counted = {"targeted": [0] * LAYERS, "hit": [0] * LAYERS, "changed": [0] * LAYERS}
    for position in range(len(steered)):
        generated = position >= len(request.prompt)
        targets = {1: {0, 3, 6} | ({7} if request.language == "sw" and not generated else set())}
        targets |= {2: {1, 2}} if generated else {}
        for layer, experts in targets.items():
            after = set(np.argsort(-steered[position, layer], kind="stable")[:TOP_K].tolist())
            plain = model_logits(layer, request.tokens[: position + 1])
            counted["targeted"][layer] += 1
            counted["hit"][layer] += bool(after & experts)
            counted["changed"][layer] += after != set(np.argsort(-plain)[:TOP_K].tolist())
    return counted


def assert_same(record: RoutingRecord, expected: dict[str, np.ndarray | int]) -> None:
    assert record.tokens == expected["tokens"]
    np.testing.assert_array_equal(record.counts, expected["counts"])
    for name in ("gate_mass", "importance", "importance_dense", "overlap"):
        np.testing.assert_allclose(getattr(record, name), expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.__name__)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_every_schedule_gives_what_each_request_alone_would(
    schedule: Callable[[list[Request], random.Random], Outcome], seed: int
) -> None:
    requests = requests_of(seed)
    outcome = schedule(requests, random.Random(seed))
    for index, request in enumerate(requests):
        np.testing.assert_allclose(outcome.logits[index], expected_logits(request), rtol=1e-5, atol=1e-6)
        for span, record in outcome.records[index].items():
            assert_same(record, expected_record(request, span))
            for name, counts in expected_steering(request).items():
                assert getattr(record, name).tolist() == counts, name


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_steered_logits_agree_in_every_bit_whatever_is_shared(seed: int) -> None:
    requests = requests_of(seed)
    outcomes = [schedule(requests, random.Random(seed + 1)) for schedule in SCHEDULES]
    for other in outcomes[1:]:
        for index in range(len(requests)):
            assert np.array_equal(other.logits[index], outcomes[0].logits[index])
            for span, record in other.records[index].items():
                assert np.array_equal(record.counts, outcomes[0].records[index][span].counts)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_cells_of_a_sweep_share_the_layers_below_the_first_steered_one(seed: int) -> None:
    """The lowest layer once for all cells, each cell's own copy above: as one run for each cell."""
    [request, *_] = requests_of(seed)
    lowest, rows = 1, np.array(request.tokens)
    engine = Engine(plans=(PLAN, None))

    def path(plan: int) -> list[int]:
        prompt = engine.add(NONE, request.language, plan=plan)
        return [prompt, engine.add(prompt, request.language, generated=True, plan=plan)]

    sizes = [len(request.prompt), len(request.continuation)]
    shared, cells = path(1), [path(0), path(1)]
    engine.run(np.repeat(shared, sizes), rows, range(lowest))
    engine.run(np.concatenate([np.repeat(cell, sizes) for cell in cells]), np.tile(rows, 2), range(lowest, LAYERS))
    below, *above = engine.recorder.sums_of([shared, *cells])
    for plan, sums in enumerate(above):
        alone = Engine(plans=engine.plans)
        own = [alone.add(NONE, request.language, plan=plan)]
        own.append(alone.add(own[0], request.language, generated=True, plan=plan))
        alone.run(np.repeat(own, sizes), rows)
        [expected] = alone.recorder.sums_of([own])
        arrays = ("counts", "gate_mass", "importance", "importance_dense", "overlap")
        record, wanted = (s.take([0, 1], [0, 1], arrays) for s in (below.spliced(sums, lowest), expected))
        assert record.tokens == wanted.tokens == len(request.tokens)
        for name in (*arrays, "targeted", "hit", "changed"):
            np.testing.assert_allclose(getattr(record, name), getattr(wanted, name), rtol=1e-6, err_msg=name)
    assert below.spliced(above[0], lowest).targeted.any()
    assert not below.spliced(above[1], lowest).targeted.any()


def test_a_segment_without_tokens_has_no_say_in_what_follows_it() -> None:
    """As the empty prompt of a request, beside others that have one."""
    engine = Engine()
    first = engine.add()
    empty = engine.add(first)
    last = engine.add(empty)
    engine.run(np.array([first, first]), np.array([1, 2]))
    engine.run(np.array([last]), np.array([3]))
    whole, own = Engine(), engine.recorder.sums_of([[first, empty, last]])[0]
    only = whole.add()
    whole.run(np.array([only] * 3), np.array([1, 2, 3]))
    expected = whole.recorder.sums_of([[only]])[0].take([0], [0], ("counts", "overlap"))
    record = own.take([0, 1, 2], [0, 1, 2], ("counts", "overlap"))
    assert np.array_equal(record.counts, expected.counts)
    np.testing.assert_allclose(record.overlap, expected.overlap)
    with pytest.raises(ValueError, match="a segment that follows it has begun"):
        engine.forest.begin_pass(np.array([empty]))


def test_a_segment_cannot_grow_in_front_of_one_that_follows_it() -> None:
    engine = Engine()
    root = engine.add()
    child = engine.add(root)
    engine.forest.begin_pass(np.array([root, child]))
    with pytest.raises(ValueError, match="a segment that follows it has begun"):
        engine.forest.begin_pass(np.array([root]))


def test_tokens_that_cannot_be_told_apart_are_refused() -> None:
    engine = Engine()
    batch = engine.forest.begin_pass(np.array([[engine.add()] * 3, [engine.add()] * 3]))
    assert batch.fitted(10).kept.tolist() == [2, 3, 4, 7, 8, 9]
    with pytest.raises(RoutingBypassedError, match="called with 7 tokens for a batch of 2 rows of 3"):
        batch.fitted(7)
    with pytest.raises(RoutingBypassedError, match="called with 4 tokens for a pass of 3"):
        engine.forest.begin_pass(np.array([engine.add()] * 3)).fitted(4)
