"""The known degradation against Pillow's bicubic filter, another program's."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage

from codi_tf.core.errors import UserError
from codi_tf.tasks.bicubic import Bicubic


def photo(height=48, width=64):
    """Float32 [H, W, 3] in [-1, 1], whole 8-bit levels, with detail."""
    noise = np.random.default_rng(0).uniform(0, 255, (height, width, 3))
    return np.float32(np.rint(0.5 * noise + 0.5 * ndimage.gaussian_filter(noise, (2, 2, 0))) / 127.5 - 1)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_it_is_what_pillow_does(scale):
    image = photo()
    pixels = Image.fromarray(np.rint((image + 1) * 127.5).astype(np.uint8))
    low = pixels.resize((64 // scale, 48 // scale), Image.Resampling.BICUBIC)
    expected = np.asarray(low.resize((64, 48), Image.Resampling.BICUBIC)) / np.float32(127.5) - 1
    condition = Bicubic(scale=scale).degrade(tf.constant(image), tf.constant([1, 2])).numpy()
    assert condition.shape == image.shape and condition.dtype == np.float32
    inner = slice(2 * scale, -2 * scale)  # the edges are up to each program
    np.testing.assert_allclose(condition[inner, inner], expected[inner, inner], atol=2.5 / 127.5)


def test_the_seed_plays_no_part():
    first, second = (Bicubic().degrade(tf.constant(photo()), tf.constant(seed)) for seed in ([1, 2], [3, 4]))
    np.testing.assert_array_equal(first, second)


def test_a_users_photo_is_the_condition_and_the_result_is_as_made():
    image = photo()
    np.testing.assert_array_equal(Bicubic().condition_from_image(image), image)
    np.testing.assert_array_equal(Bicubic().finish(image, -image), image)


@pytest.mark.parametrize("scale", [0, 2.5, True, "4"])
def test_wrong_scale(scale):
    with pytest.raises(UserError, match="bicubic: scale must be a whole number"):
        Bicubic(scale=scale)


def test_side_must_be_a_multiple_of_the_scale():
    with pytest.raises(UserError, match="bicubic: an image of 66x64.*scale 4"):
        Bicubic().degrade(tf.zeros([66, 64, 3]), tf.constant([1, 2]))
