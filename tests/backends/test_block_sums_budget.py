"""What block sums take of the memory that vLLM would give to its KV cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_moe.backends.vllm.budget import ASSUMED, left_for_blocks, segment_bytes
from lm_eval_moe.recording import Forest, Recorder

GIB = 1 << 30


def test_the_sums_of_a_segment_of_a_real_model() -> None:
    """48 layers of 128 experts: counts, gate mass and importance, one number more a layer, and what steering did."""
    assert segment_bytes(48, 128) == 8 * 48 * (3 * 128 + 1 + 3) == 148_992
    assert segment_bytes(48, 128, ["counts", "importance"]) == 8 * 48 * (2 * 128 + 1 + 3)


@pytest.mark.parametrize(
    "arrays", [ASSUMED, ("importance",), ("counts", "importance", "overlap"), ("importance_dense", "gate_mass")]
)
def test_a_segment_takes_what_a_recorder_allocates(arrays: tuple[str, ...]) -> None:
    """The recorder itself is asked; that nothing was steered is the only difference."""
    forest = Forest()
    recorder = Recorder(forest, 2, 8, arrays=arrays)
    first, second = forest.add(), forest.add()
    recorder.start_pass(forest.begin_pass(np.array([first, first, second, second])))
    for layer in range(2):
        recorder.logits(layer, torch.zeros(4, 8))
        recorder.selection(layer, torch.zeros(4, 2, dtype=torch.long), torch.ones(4, 2))
    recorder.end_pass()
    recorder.sums_of([])
    allocated = sum(values.nbytes for values in recorder._sums.by_name.values())
    assert allocated == len(forest) * (segment_bytes(2, 8, arrays) - 3 * 8 * 2)


def test_a_tenth_of_the_memory_of_many_experts_goes_to_sums() -> None:
    block = 16 * 48 * 2 * 4 * 128 * 2  # tokens, layers, keys and values, heads, their size, bytes
    left = left_for_blocks(60 * GIB, block=block, segment=segment_bytes(48, 128))
    assert left / (60 * GIB) == pytest.approx(0.894, abs=0.001)


@given(
    st.integers(0, 1 << 40),
    st.integers(1, 1 << 24),
    st.integers(0, 1 << 20),
    st.integers(0, 1 << 14),
)
def test_blocks_and_their_sums_fit_and_hardly_anything_is_left_over(
    available: int, block: int, segment: int, apart: int
) -> None:
    left = left_for_blocks(available, block=block, segment=segment, reserved=apart)
    taken = left * (1 + 1.25 * segment / block) + apart * segment
    assert 0 <= left <= available
    if left:
        slack = 1 + 1.25 * segment / block  # of rounding to whole bytes
        assert available - slack - 1e-6 * available <= taken <= available * (1 + 1e-6)


def test_memory_that_does_not_even_hold_the_tokens_held_apart_leaves_nothing() -> None:
    assert left_for_blocks(1000, block=10, segment=100, reserved=11) == 0
