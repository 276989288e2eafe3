"""The random numbers of a step: the same whole, however the global batch is divided."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.methods.draws import Draws

SHAPE = (3, 5, 2)


def whole(draw, parts: int) -> np.ndarray:
    """What all parts draw, one behind the other."""
    return np.concatenate([draw(Draws(7, 2, part, parts)) for part in range(parts)])


@pytest.mark.parametrize(
    "draw",
    [
        lambda draws: draws.noise(tf.zeros((12 // draws.parts, *SHAPE))),
        lambda draws: draws.uniform(tf.zeros(12 // draws.parts), "drop"),
        lambda draws: draws.times(tf.zeros(12 // draws.parts), low=0, high=1000, shared=False),
    ],
    ids=["noise", "uniform", "times"],
)
@pytest.mark.parametrize("parts", [2, 4, 12])
def test_parts_are_the_rows_of_the_whole(draw, parts):
    numbers = whole(draw, 1)
    np.testing.assert_array_equal(whole(draw, parts), numbers)
    assert len(np.unique(numbers.reshape(12, -1)[:, 0])) > 10  # and every example has its own


def test_a_part_may_be_a_tensor_inside_a_graph():
    @tf.function
    def noise(part):
        return Draws(7, 2, part, 4).noise(tf.zeros((3, *SHAPE)))

    expected = Draws(7, 2).noise(tf.zeros((12, *SHAPE))).numpy()
    np.testing.assert_array_equal(noise(tf.constant(2)), expected[6:9])


def test_shared_times_are_one_for_all_parts():
    times = {int(Draws(7, 2, part, 4).times(tf.zeros(3), low=1, high=10**6, shared=True)) for part in range(4)}
    assert len(times) == 1


def test_purposes_are_independent():
    like = tf.zeros(5000)
    a, b = (Draws(7, 2).uniform(like, purpose).numpy() for purpose in ("drop", "guidance"))
    assert abs(np.corrcoef(a, b)[0, 1]) < 4 / 5000**0.5
