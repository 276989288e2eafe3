"""A small feature network, trained in half a minute, for FD-photos and for perceptual guidance.

FD-photos (`frechet_photos` in code) is the Frechet distance in these features. It is not FID and not comparable with
published numbers: it ranks models within one table, made with one network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.core.precision import built_in, make_policy
from codi_tf.core.progress import Progress
from codi_tf.io.bundle_files import CHECKPOINTS
from codi_tf.io.folders import whole_folder
from codi_tf.io.json_files import read_json
from codi_tf.io.schema import Each, Record, Whole, check
from codi_tf.io.weights import CONFIG, load_network, save_network
from codi_tf.models.layers import Conv2D
from codi_tf.tasks import make_task

TRAINING_STEPS = 600
BATCH = 32
CROPS_PER_PHOTO = 128
LEARNING_RATE = 2e-3
STRIDES = (1, 2, 2, 2, 1)  # the first convolution keeps every pixel, where blur shows
SCHEMA = Record({"num_photos": Whole(1, 1_000_000)}, {"widths": Each(Whole(1, 4096), len(STRIDES), len(STRIDES))})


class FeatureNetwork(keras.Model):
    """A classifier of crops: the training photo that a crop was cut from, and whether it was degraded.

    The second task makes the features sensitive to blur.

    Args:
        num_photos: the number of photos.
        widths: channels of the five convolutions; the last is the number of features, D.

    Input: float32 [B, H, W, 3] in [-1, 1]. Output: logits (photo [B, num_photos], degraded [B]).
    """

    def __init__(self, *, num_photos: int, widths=(16, 32, 64, 64, 64), **kwargs):
        super().__init__(**kwargs)
        self.num_photos, self.widths = num_photos, tuple(widths)
        self.convolutions = [
            Conv2D(width, strides=stride, kernel_initializer="he_normal", name=f"convolutions.{i}")
            for i, (width, stride) in enumerate(zip(self.widths, STRIDES, strict=True))
        ]
        self.photo = keras.layers.Dense(num_photos, name="photo")
        self.degraded = keras.layers.Dense(1, name="degraded")

    def build(self, input_shape=None):
        for convolution, channels in zip(self.convolutions, (3, *self.widths), strict=False):
            convolution.build((None, None, None, channels))
        for head in (self.photo, self.degraded):
            head.build((None, self.widths[-1]))

    def call(self, images):
        features = self.features(images)
        return self.photo(features), ops.squeeze(self.degraded(features), axis=-1)

    def features(self, images):
        """Images [B, H, W, 3] in [-1, 1] -> [B, D]: the means of the last feature maps, which the heads classify."""
        return ops.mean(self._activations(images)[-1], axis=(1, 2))

    def maps(self, images) -> list:
        """Images [B, H, W, 3] in [-1, 1] -> five feature maps [B, h, w, C], each position's channels of unit length.

        For the perceptual guidance (as in LPIPS, Zhang et al. 2018, Eq. 1).
        """
        # The small constant keeps the gradient finite where all channels are 0.
        return [h * ops.rsqrt(ops.sum(ops.square(h), axis=-1, keepdims=True) + 1e-8) for h in self._activations(images)]

    def _activations(self, h) -> list:
        activations = []
        for convolution in self.convolutions:
            h = ops.silu(convolution(h))
            activations.append(h)
        return activations

    def get_config(self):
        return {"name": self.name, "num_photos": self.num_photos, "widths": list(self.widths)}


def train_feature_network(
    photos: dict[str, np.ndarray],
    *,
    image_size: int = 64,
    steps: int = TRAINING_STEPS,
    seed: int = 0,
    report: Callable[[int], None] | None = None,
) -> FeatureNetwork:
    """Train a feature network on crops of photos, half of them degraded as for super-resolution.

    Args:
        photos: name -> uint8 [H, W, 3], two or more.
        image_size: side of the crops.
        steps: of Adam, with batches of 32.
        seed: of crops, weights and batches; Keras' global seed is set.
        report: called with the number of steps done, after each.

    Raises:
        UserError: fewer than two photos, or a photo smaller than the crop.
    """
    if len(photos) < 2:
        raise UserError(f"a feature network needs two or more photos to tell apart, not {len(photos)}")
    keras.utils.set_random_seed(seed)
    random = np.random.Generator(np.random.Philox(key=seed))
    crops, labels = labeled_crops(photos, image_size=image_size, count=CROPS_PER_PHOTO, seed=seed)
    network = FeatureNetwork(num_photos=len(photos), name="features")
    network.build()
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps))

    @tf.function
    def step(images, photo, degraded):
        with tf.GradientTape() as tape:
            photo_logits, degraded_logits = network(images)
            of_photo = tf.nn.sparse_softmax_cross_entropy_with_logits(photo, photo_logits)
            of_degraded = tf.nn.sigmoid_cross_entropy_with_logits(degraded, degraded_logits)
            loss = tf.reduce_mean(of_photo + of_degraded)
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)

    for done in range(1, steps + 1):
        rows, degraded = random.integers(len(labels), size=BATCH), random.integers(2, size=BATCH)
        images = crops[rows, degraded]
        if random.integers(2):
            images = images[:, :, ::-1]
        step(images, labels[rows], degraded.astype("float32"))
        if report is not None:
            report(done)
    return network


def labeled_crops(
    photos: dict[str, np.ndarray], *, image_size: int, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`count` crops of each photo, original and degraded as for super-resolution.

    Returns:
        float32 [N, 2 (original, degraded), S, S, 3] in [-1, 1], and the number of the photo, int64 [N].

    Raises:
        UserError: a photo smaller than the crop.
    """
    task = make_task("super_resolution")
    sets = [
        data.evaluation_set({name: photo}, task, image_size=image_size, count=count, seed=seed)
        for name, photo in photos.items()
    ]
    pairs = [np.stack([examples["image"], examples["condition"]], axis=1) for examples in sets]
    return np.concatenate(pairs), np.repeat(np.arange(len(photos)), count)


def save_features(network: FeatureNetwork, folder: Path) -> None:
    """Write a feature network into a folder, whole or not at all. Raises UserError, see `whole_folder`."""
    with whole_folder(folder, CHECKPOINTS) as partial:
        save_network(network, partial, extra_config={"_class_name": "FeatureNetwork"})


def load_features(folder: Path) -> FeatureNetwork:
    """Read a feature network from a folder.

    Raises:
        UserError: a missing, truncated or foreign part.
    """
    config = read_json(folder / CONFIG)
    if config.pop("_class_name", None) != "FeatureNetwork":
        raise UserError(f"{folder}: holds no feature network; name the folder of one")
    check(config, SCHEMA, folder / CONFIG, "train the network again")
    with built_in(make_policy()):
        try:
            network = FeatureNetwork(name="features", **config)
        except (TypeError, ValueError) as error:
            raise UserError(f"{folder / CONFIG}: not the configuration of a feature network ({error})") from None
        network.build()
    load_network(network, folder)
    return network


def load_or_train(folder: Path, image_size: int) -> FeatureNetwork:
    """Load the feature network in a folder, or train one on the embedded photos and save it there.

    Args:
        folder: of the network.
        image_size: side of the crops that it is trained on.

    Raises:
        UserError: the folder holds something else, or the packages of the photos are missing.
    """
    if folder.exists():
        return load_features(folder)
    progress = Progress("training the feature network", TRAINING_STEPS)
    photos, options = data.load_photos("train"), {"image_size": image_size, "steps": TRAINING_STEPS}
    network = train_feature_network(photos, report=progress.update, **options)
    save_features(network, folder)
    return network
