"""Keyed noise: normal, independent, and a function of the token alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.keys_oracle import MASK, mixed, sequence_keys

from lm_eval_moe.recording import Forest
from lm_eval_moe.steering.noise import PrefixKeys, keyed_normal


def test_the_mixing_is_splitmix64() -> None:
    # The first outputs of the reference generator seeded with 1234567.
    step, state, outputs = 0x9E3779B97F4A7C15, 1234567, []
    for _ in range(3):
        state = (state + step) & MASK
        outputs.append(mixed(state))
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_draw_is_the_transform_of_its_mixed_integers() -> None:
    step, seed, layer, keys, experts = 0x9E3779B97F4A7C15, -3, 7, [0, -1, 2**62 + 5], [0, 11]
    start = mixed((mixed((seed + step) & MASK) + (layer + 1) * step) & MASK)
    expected = []
    for key in keys:
        for expert in experts:
            bits = mixed((mixed((key & MASK) ^ start) + (expert + 1) * step) & MASK)
            radius = math.sqrt(-2 * math.log(((bits >> 32) + 1) / 2**32))
            expected.append(radius * math.cos(2 * math.pi * (bits & 0xFFFFFFFF) / 2**32))
    found = keyed_normal(seed, layer, torch.tensor(keys), torch.tensor(experts))
    np.testing.assert_allclose(found.numpy().ravel(), expected, rtol=1e-6, atol=1e-7)


def test_the_draws_are_standard_normal() -> None:
    draws = keyed_normal(0, 3, torch.arange(12_500), torch.arange(8)).numpy().astype(np.float64)
    assert draws.shape == (12_500, 8)
    assert abs(draws.mean()) < 4 / math.sqrt(1e5)
    assert abs(draws.std() - 1) < 4 / math.sqrt(2e5)
    assert stats.kstest(draws.ravel(), "norm").pvalue > 0.01
    assert np.abs(draws).max() < 7


def test_the_draws_of_experts_tokens_layers_and_seeds_are_uncorrelated() -> None:
    keys, experts = torch.arange(20_000), torch.arange(4)
    draws = torch.cat([keyed_normal(seed, layer, keys, experts) for seed in (0, 1) for layer in (0, 1)], dim=1)
    correlations = np.corrcoef(draws.numpy().T)
    assert np.abs(correlations - np.eye(16)).max() < 4.5 / math.sqrt(20_000)
    along = draws[:, 0].numpy()
    assert abs(np.corrcoef(along[:-1], along[1:])[0, 1]) < 4.5 / math.sqrt(20_000)


@pytest.mark.parametrize(("seed", "layer", "key", "expert"), [(1, 2, 3, 4), (0, 3, 3, 4), (0, 2, 4, 4), (0, 2, 3, 5)])
def test_every_integer_counts(seed: int, layer: int, key: int, expert: int) -> None:
    def draw(seed: int, layer: int, key: int, expert: int) -> float:
        return keyed_normal(seed, layer, torch.tensor([key]), torch.tensor([expert])).item()

    assert draw(seed, layer, key, expert) != draw(0, 2, 3, 4)


def test_a_draw_depends_on_neither_batch_nor_order() -> None:
    keys = torch.from_numpy(np.random.default_rng(0).integers(-(2**63), 2**63, 500))
    experts = torch.tensor([3, 0, 127])
    whole = keyed_normal(5, 1, keys, experts)
    assert torch.equal(torch.cat([keyed_normal(5, 1, part, experts) for part in keys.split(7)]), whole)
    assert torch.equal(keyed_normal(5, 1, keys.flip(0), experts.flip(0)), whole.flip(0, 1))
    assert torch.equal(keyed_normal(5, 1, keys[40:41], experts[1:2]), whole[40:41, 1:2])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_draw_does_not_depend_on_the_device() -> None:
    keys, experts = torch.arange(100_000), torch.arange(8)
    assert torch.equal(keyed_normal(0, 0, keys.cuda(), experts.cuda()).cpu(), keyed_normal(0, 0, keys, experts))


def keys_of(tokens: list[int]) -> list[int]:
    """The keys of one sequence without padding."""
    forest = Forest()
    rows = forest.begin_pass(np.full(len(tokens), forest.add()))
    return PrefixKeys().keys(torch.tensor(tokens), rows).tolist()


def test_a_key_is_the_mixed_polynomial_of_the_mixed_tokens() -> None:
    tokens = [5, 0, 0, 151_643]
    assert keys_of(tokens) == sequence_keys(tokens)


SEQUENCES = st.lists(
    st.lists(st.integers(0, 3) | st.integers(0, 200_000), min_size=1, max_size=12), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=50)
@given(SEQUENCES, st.booleans(), st.lists(st.integers(1, 5), max_size=8), st.integers(0, 3))
def test_keys_depend_on_neither_padding_batch_nor_steps(
    sequences: list[list[int]], left: bool, steps: list[int], padding: int
) -> None:
    width = max(map(len, sequences)) + padding
    forest, keys = Forest(), PrefixKeys()
    numbers = [forest.add() for _ in sequences]
    tokens, segment = np.full((len(sequences), width), 99), np.full((len(sequences), width), -1)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), None) if left else slice(len(sequence))
        tokens[row, place], segment[row, place] = sequence, numbers[row]
    found: dict[int, list[int]] = {number: [] for number in numbers}
    start = 0
    for step in [*steps, width]:
        part = slice(start, start + step)
        rows = forest.begin_pass(segment[:, part])
        piece = keys.keys(torch.from_numpy(tokens[:, part].reshape(-1)), rows).tolist()
        for number, key in zip(rows.segment.tolist(), piece, strict=True):
            found[number].append(key)
        start += step
    assert list(found.values()) == [sequence_keys(sequence) for sequence in sequences]


def test_keys_depend_on_the_whole_prefix_and_nothing_after_it() -> None:
    assert keys_of([1, 2, 3])[:2] == keys_of([1, 2, 9, 4])[:2]
    every = [
        keys_of(tokens)[-1] for tokens in ([1, 2, 3], [9, 2, 3], [1, 3], [2, 1, 3], [3], [0, 3], [3, 0], [0, 0], [0])
    ]
    assert len(set(every)) == len(every)


def test_the_keys_of_many_prefixes_are_distinct() -> None:
    tokens = np.random.default_rng(1).integers(0, 50, (64, 512))
    tokens[0] = 0
    forest = Forest()
    rows = forest.begin_pass(np.repeat([[forest.add()] for _ in tokens], 512, axis=1))
    keys = PrefixKeys().keys(torch.from_numpy(tokens.reshape(-1)), rows)
    prefixes = {tuple(row[: end + 1]) for row in tokens.tolist() for end in range(512)}
    assert keys.unique().numel() == len(prefixes)
