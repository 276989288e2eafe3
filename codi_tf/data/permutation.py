"""A random permutation of N items that is computed place by place, without table or state."""

from __future__ import annotations

import tensorflow as tf

from codi_tf.core.tensors import Tensor

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


def permuted_in_graph(places: Tensor, count: int, *, seed: int, epoch: Tensor) -> Tensor:
    """`permuted` in operations of TensorFlow, with the same result: int64 of any shape -> int64 of that shape.

    Args:
        places: int64, each 0 .. count - 1.
        count, seed: see `permuted`.
        epoch: int64, of a shape that fits the places'.
    """
    half = max((count - 1).bit_length() + 1, 2) // 2
    low = _word((1 << half) - 1)
    key = _mixed_in_graph(tf.bitwise.bitwise_xor(_word(_mixed(seed & _MASK)), _bits(epoch)))

    def shuffled(place: Tensor) -> Tensor:
        left, right = tf.bitwise.right_shift(place, _word(half)), tf.bitwise.bitwise_and(place, low)
        for turn in range(_ROUNDS):
            noise = tf.bitwise.bitwise_and(_mixed_in_graph(key + _word(turn << 48) + right), low)
            left, right = right, tf.bitwise.bitwise_xor(left, noise)
        return tf.bitwise.bitwise_or(tf.bitwise.left_shift(left, _word(half)), right)

    def is_outside(place: Tensor) -> Tensor:
        return tf.cast(place, tf.int64) >= count

    (found,) = tf.while_loop(
        lambda place: tf.reduce_any(is_outside(place)),
        lambda place: (tf.where(is_outside(place), shuffled(place), place),),
        (shuffled(_bits(places)),),
    )
    return tf.cast(found, tf.int64)


def _mixed_in_graph(value: Tensor) -> Tensor:
    """`_mixed`, uint64 of any shape."""
    value = value + _word(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, _word(shift))) * _word(factor)
    return tf.bitwise.bitwise_xor(value, tf.bitwise.right_shift(value, _word(31)))


def _word(value: int) -> Tensor:
    return tf.constant(value, tf.uint64)


def _bits(values: Tensor) -> Tensor:
    """int64 as uint64 of the same bits."""
    return tf.bitcast(tf.cast(values, tf.int64), tf.uint64)
