"""Noise that depends on what a token is, not on where it lies in a batch.

Every draw is a pure function of integers: a seed, the layer, a key of the token and the expert. The key of a token is
a hash of the tokens up to it: neither padding, batch size, the order of requests nor a key-value cache changes it.
Integers are mixed as in SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); int64 wraps around on every device.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["NOISE_STD", "PrefixState", "keyed_normal", "prefix_keys"]

NOISE_STD = 1e-3
"""Standard deviation of the noise of ``activate`` and ``deactivate`` (variance 1e-6; arXiv 2510.04694, eq. 5)."""


def _signed(value: int) -> int:
    """Return the int64 of the same 64 bits."""
    return (value + 2**63) % 2**64 - 2**63


_STEP = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)
_BASE = _signed(0xD1342543DE82EF95)  # odd, so that its powers are distinct for long


class PrefixState(NamedTuple):
    """What :func:`prefix_keys` has seen of each row; int64 ``[B]`` each.

    Attributes:
        hash: Rolling hash of the row's valid tokens.
        power: The hash's base to the power of their number.
    """

    hash: Tensor
    power: Tensor

    def select(self, rows: Tensor) -> PrefixState:
        """Return the state of some rows, int64 ``[n]``, in their order: for batches that are reordered."""
        return PrefixState(self.hash.index_select(0, rows), self.power.index_select(0, rows))


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros: torch's own shift copies the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(value: Tensor) -> Tensor:
    """Return SplitMix64's output function of each int64."""
    value = (value ^ _shifted(value, 30)) * _MIX_1
    value = (value ^ _shifted(value, 27)) * _MIX_2
    return value ^ _shifted(value, 31)


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

    # One number on the CPU: it joins the keys on any device without a copy.
    start = _mixed(torch.tensor(_signed(seed + _STEP)))
    start = _mixed(start + _signed((layer + 1) * _STEP))
    bits = _mixed(_mixed(keys ^ start)[:, None] + (experts + 1)[None, :] * _STEP)
    real = torch.float32 if keys.device.type == "mps" else torch.float64
    radius = ((_shifted(bits, 32) + 1).to(real) * 2.0**-32).log().mul(-2).sqrt()  # of a uniform in (0, 1]
    angle = (bits & 0xFFFFFFFF).to(real) * (2.0**-32 * math.tau)
    return (radius * angle.cos()).to(torch.float32)


def prefix_keys(tokens: Tensor, valid: Tensor, state: PrefixState | None = None) -> tuple[Tensor, PrefixState]:
    """Hash, for each position, the row's valid tokens up to and including it.

    The hash is a polynomial in the mixed tokens, modulo 2^64. Step by step with the state, a sequence gets the same
    keys as in one pass.

    Args:
        tokens: Token ids; int64 ``[B, T]``.
        valid: Whether a position holds a token rather than padding; bool ``[B, T]``.
        state: What an earlier call returned for the same rows; ``None`` at the start of a sequence.

    Returns:
        The keys, int64 ``[B, T]`` (at padding: the key of the last valid token before it), and the state afterwards.
    """
    import torch

    rows, width = tokens.shape
    if state is None:
        start = torch.zeros(rows, dtype=torch.int64, device=tokens.device)
        state = PrefixState(start, start + 1)
    powers = torch.full((width + 1,), _BASE, dtype=torch.int64, device=tokens.device)
    powers[0] = 1
    powers = powers.cumprod(0)
    seen = valid.long().cumsum(1)  # valid tokens up to and including each position
    terms = _mixed((tokens.long() + 1) * _STEP) * powers[(seen - 1).clamp(min=0)] * state.power[:, None]
    hashes = state.hash[:, None] + (terms * valid).cumsum(1)
    after = PrefixState(state.hash + (terms * valid).sum(1), state.power * powers[valid.sum(1)])
    return _mixed(hashes), after
