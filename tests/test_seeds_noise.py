"""Stateless seeds and the noise that images start from."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise, philox
from codi_tf.core.seeds import fold


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


# Random123's known answers: counter, key, what comes of them
ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
# seed, stream -> the first eight numbers, as docs/noise.md gives them
NORMALS = {
    (0, 0): [0.9911377, -0.9246626, -0.61760896, -0.48206860, -0.15363823, 0.18082590, 0.83173513, 0.19743972],
    (1, 0): [0.38040075, -0.29627788, -0.24923342, -1.0038372, 0.62694788, -0.63398379, -0.67827159, -1.0130806],
    (2**40 + 3, 0): [-0.52352589, -1.3825017, 0.66969645, -0.47040892, -1.0662769, -1.6722178, 0.024235625, -2.7795846],
    (0, 1): [1.0675901, -0.42534414, -2.3679731, -0.23149689, 0.40496680, -0.55226278, -1.0663313, 0.52379566],
}


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def test_philox_gives_random123_s_answers():
    counters, keys, expected = (
        np.array([words(text) for text in texts], np.uint64) for texts in zip(*ANSWERS, strict=True)
    )
    for i, key in enumerate(keys):
        found = philox(tuple(counters.T), (int(key[0]), int(key[1])))
        np.testing.assert_array_equal(np.stack(found, axis=-1)[i], expected[i])


@pytest.mark.parametrize("seed, stream", [(5, 0), (2**63 - 1, 7), (2**32, 2**32 - 1)])
def test_noise_is_tensorflow_s_philox_by_box_and_muller(seed, stream):
    """TensorFlow's stateless operations know the same generator; Box-Muller number by number."""
    drawn = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[96], key=np.uint64([seed]), counter=np.uint64([0, stream]), alg=1, dtype=tf.uint32
    )
    expected = []
    for x, y in drawn.numpy().reshape(-1, 2).tolist():
        radius, angle = math.sqrt(-2 * math.log((x + 0.5) / 2**32)), 2 * math.pi * (y + 0.5) / 2**32
        expected += [radius * math.cos(angle), radius * math.sin(angle)]
    noise = gaussian_noise(seed, (2, 3, 4, 4), stream=stream)
    assert noise.dtype == np.float32 and noise.shape == (2, 3, 4, 4)
    np.testing.assert_allclose(noise.ravel(), np.float32(expected), rtol=2**-22)


@pytest.mark.parametrize("seed, stream", NORMALS)
def test_noise_is_the_same_on_every_machine(seed, stream):
    np.testing.assert_allclose(gaussian_noise(seed, (8,), stream=stream), NORMALS[seed, stream], rtol=2**-22)


def test_the_specification_gives_these_numbers():
    text = (Path(__file__).parents[1] / "docs" / "noise.md").read_text(encoding="utf-8")
    assert all(answer in text for answers in ANSWERS for answer in answers)
    for (seed, stream), numbers in NORMALS.items():
        line = next(line for line in text.splitlines() if line.split()[:2] == [str(seed), str(stream)])
        np.testing.assert_array_equal([float(number) for number in line.split()[2:]], numbers)


def test_a_shape_begins_every_larger_one():
    longest = gaussian_noise(3, (4099,))
    for shape in ((), (1,), (5,), (2, 3), (2, 4, 4, 4), (0,)):
        noise = gaussian_noise(3, shape)
        assert noise.shape == shape
        np.testing.assert_array_equal(noise.ravel(), longest[: noise.size])


def test_seeds_and_streams_are_independent():
    """Also where only the upper half of a seed differs."""
    count = 20_000
    drawn = [gaussian_noise(seed, (count,), stream=stream) for seed in (0, 1, 2**32, 2**62) for stream in (0, 1, 2)]
    correlation = np.corrcoef(drawn) - np.eye(len(drawn))
    assert np.abs(correlation).max() < 5 / count**0.5
    neighbors = np.corrcoef([drawn[0][:-1], drawn[0][1:]])[0, 1]
    assert abs(neighbors) < 4 / count**0.5


def test_noise_is_standard_normal():
    noise = gaussian_noise(0, (400_000,)).astype(np.float64)
    tolerance = 4 / noise.size**0.5
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):  # of a standard normal
        spread = {1: 1, 2: 2, 3: 15, 4: 96, 6: 10170}[power] ** 0.5  # of its powers
        assert abs(np.mean(noise**power) - moment) < tolerance * spread
    below = [np.mean(noise < bound) for bound in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    np.testing.assert_allclose(below, [0.02275, 0.15866, 0.5, 0.84134, 0.97725], atol=tolerance / 2)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "a", None])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(UserError, match=f"seed is {seed!r}: it must be a whole number from 0 to"):
        gaussian_noise(seed, (1,))


def test_the_largest_seed_is_allowed():
    assert gaussian_noise(2**63 - 1, (1,)).shape == (1,)
    np.testing.assert_array_equal(gaussian_noise(np.int64(4), (2,)), gaussian_noise(4, (2,)))
