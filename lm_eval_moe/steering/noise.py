"""Noise that depends on what a token is, not on where it lies in a batch.

Every draw is a pure function of integers: a seed, the layer, a key of the token and the expert. The key of a token is
a hash of the tokens up to it: neither padding, batch size, the order of requests nor a key-value cache changes it.
Integers are mixed as in SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); int64 wraps around on every device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lm_eval_moe.recording.token_rows import NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from lm_eval_moe.recording.token_rows import TokenRows

__all__ = ["NOISE_STD", "PrefixKeys", "keyed_normal"]

NOISE_STD = 1e-3
"""Standard deviation of the noise of ``activate`` and ``deactivate`` (variance 1e-6; arXiv 2510.04694, eq. 5)."""


def _signed(value: int) -> int:
    """Return the int64 of the same 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


_STEP = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_BASE = _signed(0xD1342543DE82EF95)  # odd, so that its powers are distinct for long


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros: torch's own shift copies the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(value: Tensor) -> Tensor:
    """Return SplitMix64's output function of each int64."""
    value = (value ^ _shifted(value, 30)) * _MIX_1
    value = (value ^ _shifted(value, 27)) * _MIX_2
    return value ^ _shifted(value, 31)


@lru_cache(1024)
def _start(seed: int, layer: int) -> int:
    import torch

    return int(_mixed(_mixed(torch.tensor(_signed(seed + _STEP))) + _signed((layer + 1) * _STEP)))


def keyed_normal(seed: int, layer: int, keys: Tensor, experts: Tensor) -> Tensor:
    """Draw standard normal noise, each draw a pure function of (seed, layer, key, expert).

    Args:
        seed: Any integer; its lowest 64 bits count.
        layer: Decoder-layer index.
        keys: Keys of the tokens; int64 ``[tokens]``.
        experts: Experts; int64 ``[n]``, on the same device.

    Returns:
        float32 ``[tokens, n]``. Box and Muller's transform is computed in float64 where the device has it, so that
        devices agree after rounding.
    """
    import torch

    bits = _mixed(_mixed(keys ^ _start(seed, layer))[:, None] + (experts + 1)[None, :] * _STEP)
    real = torch.float32 if keys.device.type == "mps" else torch.float64
    radius = ((_shifted(bits, 32) + 1).to(real) * 2.0**-32).log().mul(-2).sqrt()  # of a uniform in (0, 1]
    angle = (bits & 0xFFFFFFFF).to(real) * (2.0**-32 * math.tau)
    return (radius * angle.cos()).to(torch.float32)


class PrefixKeys:
    """The keys of one pass after another; a segment's hash at its end is where those that follow it begin.

    The hash is a polynomial in the mixed tokens of a sequence, modulo 2^64. However sequences are cut into passes, and
    whatever they share with others, their tokens get the same keys.
    """

    def __init__(self) -> None:
        self._ends: Tensor | None = None  # int64 [segments], the hash of each up to its last token so far

    def keys(self, tokens: Tensor, rows: TokenRows) -> Tensor:
        """Hash, for each row that counts, the tokens of its sequence up to and including it.

        Args:
            tokens: Token ids; int64 ``[N]``.
            rows: Which segments they are of.

        Returns:
            The keys, int64 ``[M]``.
        """
        import torch

        def on_device(array: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(array).to(tokens.device)

        order, run, runs = on_device(rows.order), on_device(rows.run), on_device(rows.runs)
        counted_tokens = tokens.long() if rows.kept.size == rows.count else tokens.long()[on_device(rows.kept)]
        powers = counted_tokens.new_full((int(rows.position.max(initial=0)) + 1,), _BASE)
        powers[0] = 1
        terms = _mixed((counted_tokens + 1) * _STEP) * powers.cumprod(0)[on_device(rows.position)]
        sums = torch.empty_like(terms)
        sums[order] = terms[order].cumsum(0)  # over the runs, one after another
        last = sums[on_device(rows.run_last)]
        offset = torch.nn.functional.pad(last, (1, 0))[:-1]
        lengths = last - offset
        start = torch.zeros_like(last)  # the hash before each run
        goes_on = np.flatnonzero(rows.run_carried != NONE)
        if goes_on.size:
            assert self._ends is not None
            start[on_device(goes_on)] = self._ends[on_device(rows.run_carried[goes_on])]
        for level in _levels(rows.run_after):
            before = on_device(rows.run_after[level])
            start[on_device(level)] = start[before] + lengths[before]
        if self._ends is None or len(self._ends) < rows.capacity:
            ends = counted_tokens.new_zeros(0) if self._ends is None else self._ends
            self._ends = torch.cat([ends, counted_tokens.new_zeros(rows.capacity)])
        self._ends[runs] = start + lengths
        return _mixed(sums + (start - offset)[run])

    def fold(self, stretches: Sequence[Sequence[int]]) -> None:
        """Let the first of consecutive segments end where the last does, as when the forest folds them."""
        if self._ends is not None:
            for first, *_, last in stretches:
                self._ends[first] = self._ends[last]


def _levels(after: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield the runs that follow another one of the same pass, those first whose own predecessor is done."""
    is_done = after == NONE
    while not is_done.all():
        level = np.flatnonzero(~is_done & is_done[after])
        yield level
        is_done[level] = True
