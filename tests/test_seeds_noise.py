"""Stateless seeds and the noise that pictures start from."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.errors import UserError
from codi_tf.noise import gaussian_noise
from codi_tf.seeds import fold


def test_a_seed_is_a_function_of_its_four_parts():
    parts = itertools.product((0, 1), (0, 1, 2), (0, 1), ("noise", "t"))
    seeds = {part: tuple(fold(*part).numpy()) for part in parts}
    assert len(set(seeds.values())) == len(seeds) == 24
    for part, seed in seeds.items():
        assert tuple(fold(*part).numpy()) == seed
        assert fold(*part).dtype == tf.int32 and fold(*part).shape == (2,)


def test_steps_may_be_tensors_of_any_integer_type():
    expected = fold(3, 7, 1, "t").numpy()
    for dtype in (tf.int32, tf.int64):
        np.testing.assert_array_equal(fold(3, tf.constant(7, dtype), tf.constant(1, dtype), "t"), expected)
    np.testing.assert_array_equal(tf.function(fold)(3, tf.constant(7), 1, "t"), expected)


def test_seeds_of_later_versions_are_those_of_this_one():
    """Resuming an old run needs the same draws."""
    assert fold(0, 0, 0, "noise").numpy().tolist() == [1513496281, 0]
    assert fold(3, 7, 1, "t").numpy().tolist() == [-221744677, 1]


def test_noise_is_numpy_s_philox():
    noise = gaussian_noise(5, (2, 3, 4, 4))
    expected = np.random.Generator(np.random.Philox(key=5)).standard_normal((2, 3, 4, 4), dtype=np.float32)
    assert noise.dtype == np.float32
    np.testing.assert_array_equal(noise, expected)
    np.testing.assert_array_equal(gaussian_noise(5, (2, 3, 4, 4)), noise)
    assert not np.array_equal(gaussian_noise(6, (2, 3, 4, 4)), noise)


def test_noise_is_the_same_on_every_machine():
    np.testing.assert_array_equal(gaussian_noise(0, (3,)), np.float32([0.059911035, 0.015559634, -1.1644385]))


def test_noise_is_standard_normal():
    noise = gaussian_noise(0, (100_000,))
    assert abs(noise.mean()) < 0.015 and abs(noise.std() - 1) < 0.01
    assert abs(np.mean(noise**4) - 3) < 0.15


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "a", None])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(UserError, match=f"seed is {seed!r}: it must be a whole number from 0 to"):
        gaussian_noise(seed, (1,))


def test_the_largest_seed_is_allowed():
    assert gaussian_noise(2**63 - 1, (1,)).shape == (1,)
    np.testing.assert_array_equal(gaussian_noise(np.int64(4), (2,)), gaussian_noise(4, (2,)))
