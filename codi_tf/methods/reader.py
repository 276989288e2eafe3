"""Training of the network that reads scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import tensorflow as tf
from keras import ops

from codi_tf.checkpoints.base import make_network
from codi_tf.io.weights import copy_weights
from codi_tf.methods import METHODS
from codi_tf.methods.batches import check_images, require
from codi_tf.methods.method import Method, MethodSettings
from codi_tf.models.scene_reader import CELL, Reading, SceneReader, means
from codi_tf.scenes.reading import ATTRIBUTES, SCENE, VOCABULARY, save_reader

OBJECT_WEIGHT = 4.0  # of cells that show an object, in the loss of which object they show; the floor's is 1
NEARNESS_WEIGHT = 10.0
BLURRED, NOISE = 0.4, 0.06  # share of blurred images; standard deviation of the noise, at most


@METHODS.register("reader")
@dataclass(frozen=True)
class Reader(MethodSettings):
    """Train the network that reads scenes, on rendered scenes.

    The images are blurred and noisy to a degree that is drawn for each, so that generated ones can be read, too.

    Attributes:
        network: arguments of `models.scene_reader.SceneReader` that replace the defaults, as `widths`.
    """

    network: dict = field(default_factory=dict)

    needs_base: ClassVar = False
    task_use: ClassVar = "none"
    examples: ClassVar = "images"
    needs: ClassVar = ("depth", "objects", "count", *ATTRIBUTES, *SCENE)

    def load(self, path: str | None) -> tuple[None, SceneReader]:
        """A new network."""
        return None, make_network(SceneReader, {**VOCABULARY, **self.network}, "reader")

    def build(self, base: None, student: SceneReader, perceptual: Callable | None = None) -> ReaderMethod:
        """The method on a network."""
        return ReaderMethod(self, student)


class ReaderMethod(Method):
    """What an image shows, as `reading_losses`, of images that are blurred and noisy, see `worsened`."""

    terms = ("objects", "nearness", "cells", "attributes", "scene")

    def __init__(self, settings: Reader, student: SceneReader):
        self.settings, self.student = settings, student
        self.multiple = student.multiple

    def start_average(self) -> SceneReader:
        """A second network with the student's weights."""
        average = make_network(SceneReader, {**VOCABULARY, **self.settings.network}, "average_reader")
        copy_weights(self.student, average)
        return average

    def check_batch(self, batch) -> None:
        """Raises UserError for a batch without images of the network's sizes, or without what they show."""
        for name in ("image", *Reader.needs):
            require(batch, name)
        check_images(batch, "image", channels=3, multiple=self.multiple)

    def loss_terms(self, batch, draws):
        """The terms, each [B], of batch["image"] [B, S, S, 3] in [-1, 1] and what `data.scenes.Scenes` says of it."""
        image = batch["image"]
        seen = worsened(
            image, draws.uniform(image, "blur"), draws.uniform(image, "amount of noise"), draws.noise(image)
        )
        return reading_losses(self.student(seen), batch)

    def save(self, average: SceneReader, folder: Path, first_batch: Callable[[], dict]) -> None:
        """Write the folder of a reader, for images of the run's size."""
        save_reader(average, folder, image_size=first_batch()["image"].shape[1])


def worsened(image, blur, amount, noise):
    """Images [B, S, S, 3], blurred and noisy as generated ones may be.

    Args:
        image: float32 in [-1, 1].
        blur: uniform in [0, 1), [B]: a share BLURRED of the images is mixed with its version at half the size, to a
            degree that is uniform in [0, 1).
        amount: uniform in [0, 1), [B], of the noise, in units of NOISE.
        noise: standard normal, of the shape of the images.
    """
    size = tuple(image.shape[1:3])
    coarse = tf.image.resize(ops.average_pool(image, 2, data_format="channels_last"), size)
    degree = tf.maximum(blur - (1.0 - BLURRED), 0.0) / BLURRED
    blurred = image + degree[:, None, None, None] * (coarse - image)
    return blurred + NOISE * amount[:, None, None, None] * noise


def reading_losses(reading: Reading, truth) -> dict:
    """The losses of a reading of B images, {term: float32 [B]}.

    "objects": cross-entropy of which object each cell shows, by the shares of its pixels; "nearness": absolute error;
    "cells" and "attributes": cross-entropy of the attributes in the cells that show an object, and of the objects, the
    mean over the objects, of which small ones count as much as large ones; "scene": of count, floor and light.

    Args:
        reading: the network's.
        truth: "objects" int [B, S, S], "depth" float32 [B, S, S, 1], "count" [B], each attribute [B, N], and each
            statement on the scene [B], as `data.scenes.Scenes` gives them.
    """
    most = reading.objects.shape[-1] - 1
    pixels = ops.one_hot(ops.minimum(truth["objects"], most), most + 1, dtype="float32")
    shares = ops.average_pool(pixels, CELL, data_format="channels_last")  # [B, h, w, N + 1]
    of_cells = -ops.sum(shares * ops.log_softmax(reading.objects), axis=-1)  # [B, h, w]
    weights = 1.0 + (OBJECT_WEIGHT - 1.0) * (1.0 - shares[..., -1])
    depth = ops.average_pool(truth["depth"], CELL, data_format="channels_last")
    count = ops.cast(truth["count"], "float32")[:, None]
    exists = ops.cast(ops.arange(most, dtype="float32") < count, "float32")  # [B, N]
    cells, attributes = 0.0, 0.0
    for name, logits in reading.attributes.items():
        target = ops.one_hot(truth[name], logits.shape[-1], dtype="float32")  # [B, N, values]
        in_cells = means(ops.log_softmax(reading.cells[name]), shares[..., :-1])
        cells -= ops.sum(exists * ops.sum(target * in_cells, axis=-1), axis=-1) / count[:, 0]
        attributes -= ops.sum(exists * ops.sum(target * ops.log_softmax(logits), axis=-1), axis=-1) / count[:, 0]
    scene = 0.0
    for name, logits in reading.scene.items():
        index = truth[name] - 1 if name == "count" else truth[name]
        scene -= ops.sum(ops.one_hot(index, logits.shape[-1], dtype="float32") * ops.log_softmax(logits), axis=-1)
    return {
        "objects": ops.mean(weights * of_cells, axis=(1, 2)),
        "nearness": NEARNESS_WEIGHT * ops.mean(ops.abs(reading.nearness - depth), axis=(1, 2, 3)),
        "cells": cells,
        "attributes": attributes,
        "scene": scene,
    }
