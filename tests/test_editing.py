"""Editing: the image before the edit is the condition, unchanged."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from codi_tf.tasks.editing import Editing

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)


def test_the_condition_is_the_source():
    task = Editing()
    np.testing.assert_array_equal(task.degrade(tf.constant(IMAGES[0]), tf.constant([1, 2])), IMAGES[0])
    np.testing.assert_array_equal(task.condition_from_image(IMAGES), IMAGES)


def test_an_edit_may_change_every_pixel():
    np.testing.assert_array_equal(Editing().finish(IMAGES, -IMAGES), IMAGES)


def test_what_the_task_needs():
    assert (Editing.condition_channels, Editing.condition_key, Editing.prompted) == (3, "source", True)
    assert Editing() == Editing()
