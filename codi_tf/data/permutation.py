"""A random permutation of N items that is computed place by place, without table or state."""

from __future__ import annotations

_ROUNDS = 8
_MASK = 2**64 - 1


def permuted(place: int, count: int, *, seed: int, epoch: int) -> int:
    """The item at a place of the order of (seed, epoch): a permutation of 0 .. count - 1.

    A Feistel network permutes the numbers of an even number of bits. It is applied again while the result is not below
    count, less than four times on average (cycle walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains",
    2002).

    Args:
        place: 0 .. count - 1.
        count: N.
        seed, epoch: whole numbers of up to 64 bits; every epoch has another order.
    """
    half = max((count - 1).bit_length() + 1, 2) // 2
    low = (1 << half) - 1
    key = _mixed(_mixed(seed & _MASK) ^ (epoch & _MASK))
    while True:
        left, right = place >> half, place & low
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(key + (turn << 48) + right) & low)
        place = left << half | right
        if place < count:
            return place


def _mixed(value: int) -> int:
    """64 bits that each depend on all bits of the value: SplitMix64 (Steele et al., OOPSLA 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31
