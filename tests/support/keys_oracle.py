"""The keys of the tie-breaking noise, on Python's integers: an independent statement of what the package computes."""

from __future__ import annotations

from collections.abc import Sequence

MASK = 2**64 - 1
STEP = 0x9E3779B97F4A7C15
BASE = 0xD1342543DE82EF95


def mixed(value: int) -> int:
    """SplitMix64's output function."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def signed(value: int) -> int:
    """Return the int64 of the same 64 bits."""
    return (value & MASK) - 2**64 if value & 2**63 else value & MASK


def sequence_keys(tokens: Sequence[int]) -> list[int]:
    """Return the key of every token of a sequence: the mixed polynomial, modulo 2^64, of the mixed tokens up to it."""
    total, keys = 0, []
    for position, token in enumerate(tokens):
        total = (total + mixed(((token + 1) * STEP) & MASK) * pow(BASE, position, 2**64)) & MASK
        keys.append(signed(mixed(total)))
    return keys
