"""A small feature network, trained on the spot: what the distance FD-photos and the perceptual guidance look through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf import data
from codi_tf.errors import UserError
from codi_tf.models.layers import Conv2D
from codi_tf.tasks import make_task
from codi_tf.weights import CONFIG, load_network, read_json, save_network

WIDTHS = (16, 32, 64, 64, 64)
STRIDES = (1, 2, 2, 2, 1)
CROPS_PER_PHOTO = 128


class FeatureNetwork(keras.Model):
    """Tells which photo a picture [B, H, W, 3] in [-1, 1] was cut from, and whether it was degraded.

    Args:
        photos: number of photos.
        widths: channels of the convolutions; the last is the number of features.
    """

    def __init__(self, *, photos: int, widths=WIDTHS, **kwargs):
        super().__init__(**kwargs)
        self.photos, self.widths = photos, tuple(widths)
        self.convolutions = [
            Conv2D(width, strides=stride, kernel_initializer="he_normal", name=f"conv.{i}")
            for i, (width, stride) in enumerate(zip(self.widths, STRIDES, strict=True))
        ]
        self.photo = keras.layers.Dense(photos, name="photo")
        self.degraded = keras.layers.Dense(1, name="degraded")

    def build(self, input_shape=None):
        for convolution, channels in zip(self.convolutions, (3, *self.widths[:-1]), strict=True):
            convolution.build((None, None, None, channels))
        for head in (self.photo, self.degraded):
            head.build((None, self.widths[-1]))

    def call(self, images):
        features = self.features(images)
        return self.photo(features), self.degraded(features)[:, 0]

    def features(self, images):
        return ops.mean(self._activations(images)[-1], axis=(1, 2))

    def maps(self, images) -> list:
        maps = self._activations(images)
        return [h * ops.rsqrt(ops.sum(ops.square(h), axis=-1, keepdims=True) + 1e-8) for h in maps]

    def _activations(self, h) -> list:
        activations = []
        for convolution in self.convolutions:
            h = ops.silu(convolution(h))
            activations.append(h)
        return activations

    def get_config(self):
        return {"name": self.name, "photos": self.photos, "widths": list(self.widths)}


def labelled_crops(photos, *, image_size, seed, count=CROPS_PER_PHOTO):
    task = make_task("super_resolution")
    sets = [data.evaluation_set({n: p}, task, image_size=image_size, count=count, seed=seed) for n, p in photos.items()]
    return (np.concatenate([s["image"] for s in sets]), np.concatenate([s["condition"] for s in sets]),
            np.repeat(np.arange(len(photos)), count))


def train_feature_network(photos, *, image_size=64, steps=300, seed=0, report=None, degraded_weight=1.0, pool=None, batch=32, lr=2e-3):
    keras.utils.set_random_seed(seed)
    clean, degraded, labels = pool or labelled_crops(photos, image_size=image_size, seed=seed)
    network = FeatureNetwork(photos=len(photos), name="features")
    network.build()
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(lr, steps))

    @tf.function
    def step(images, label, is_degraded):
        with tf.GradientTape() as tape:
            p, d = network(images)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(label, p))
            loss2 = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(is_degraded, d))
            total = loss + degraded_weight * loss2
        g = tape.gradient(total, network.trainable_variables)
        optimizer.apply_gradients(zip(g, network.trainable_variables))
        acc = tf.reduce_mean(tf.cast(tf.argmax(p, -1) == label, tf.float32))
        acc2 = tf.reduce_mean(tf.cast((d > 0) == (is_degraded > 0.5), tf.float32))
        return loss, loss2, acc, acc2
    random = np.random.default_rng(seed)
    hist = []
    for i in range(steps):
        rows = random.integers(0, len(clean), batch)
        is_d = random.integers(0, 2, batch).astype("float32") if degraded_weight else np.zeros(batch, "float32")
        x = np.where(is_d[:, None, None, None] > 0.5, degraded[rows], clean[rows])
        if random.integers(2):
            x = x[:, :, ::-1]
        hist.append([float(v) for v in step(x, labels[rows], is_d)])
        if report and (i+1) % 50 == 0: report(i + 1, np.mean(hist[-50:], axis=0))
    return network
