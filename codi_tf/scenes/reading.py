"""Reading scenes: what a trained network sees in images, as statements, and the folder that holds the network."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_SIDE, MAX_WIDTH
from codi_tf.core.paths import as_path
from codi_tf.core.precision import built_in, make_policy
from codi_tf.io.json_files import read_json
from codi_tf.io.schema import Each, OneOf, Record, Text, Whole, check
from codi_tf.io.tensor_files import read_header
from codi_tf.io.weights import CONFIG, WEIGHTS, make_from, save_network
from codi_tf.models.scene_reader import SceneReader
from codi_tf.scenes.captions import TABLES, Statements
from codi_tf.scenes.world import MOST_OBJECTS

ATTRIBUTES, SCENE = ("size", "material", "color", "shape"), ("floor", "light")
VOCABULARY = {  # the arguments of a network that reads this world
    "objects": MOST_OBJECTS,
    "attributes": {name: len(TABLES[name]) for name in ATTRIBUTES},
    "scene": {name: len(TABLES[name]) for name in SCENE},
}
_WORDS = {name: list(TABLES[name]) for name in (*ATTRIBUTES, *SCENE)}
_CLASS = "SceneReader"
SCHEMA = Record(
    {
        "_class_name": OneOf((_CLASS,)),
        "image_size": Whole(SceneReader.multiple, MAX_SIDE),
        "words": Record({name: Each(Text(100), 1, 1000) for name in _WORDS}),
        "objects": Whole(1, 100),
        "attributes": Record({name: Whole(1, 1000) for name in ATTRIBUTES}),
        "scene": Record({name: Whole(1, 1000) for name in SCENE}),
        "stem": Whole(1, MAX_WIDTH),
        "widths": Each(Whole(1, MAX_WIDTH), 3, 3),
        "blocks": Whole(0, 16),
        "groups": Whole(1, MAX_WIDTH),
    }
)


def save_reader(network: SceneReader, folder: Path, *, image_size: int) -> None:
    """Write a network with the words of its statements into a folder, its weights in float16.

    Args:
        network: one that reads this world, see VOCABULARY.
        folder: where to.
        image_size: side of the images that it was trained on.
    """
    about = {"_class_name": _CLASS, "image_size": image_size, "words": _WORDS}
    save_network(network, folder, dtype="float16", extra_config=about)


class Seen(NamedTuple):
    """What is seen in N images of S x S pixels.

    Attributes:
        statements: of each image, [N].
        nearness: inverse distance, float32 [N, S / 4, S / 4].
        classes: logits of the classes of objects, see `classes.class_names`, float32 [N, 32].
    """

    statements: list[Statements]
    nearness: np.ndarray
    classes: np.ndarray


class Reader:
    """A trained network that reads scenes.

    Args:
        network: the network.
        image_size: S, side of the images that it was trained on; it reads no others.
    """

    def __init__(self, network: SceneReader, image_size: int):
        self.network, self.image_size = network, image_size
        self._call, self._features = tf.function(network), tf.function(network.features)

    def check_size(self, height: int, width: int) -> None:
        """Raises UserError for images of another size than those that the network was trained on."""
        side = self.image_size
        if (height, width) != (side, side):
            raise UserError(f"the reader of scenes was trained on images of {side}x{side} pixels, not {height}x{width}")

    def read(self, images: np.ndarray, batch: int = 32) -> Seen:
        """What is seen in images float32 [N, S, S, 3] in [-1, 1]; `batch` of them are read at a time.

        Raises:
            UserError: images of another size than those that the network was trained on.
        """
        self.check_size(*images.shape[1:3])
        statements, nearness, classes = [], [], []
        for start in range(0, len(images), batch):
            reading = self._call(tf.constant(images[start : start + batch]))
            statements += _statements(
                {name: np.argmax(logits, -1) for name, logits in (reading.attributes | reading.scene).items()}
            )
            nearness.append(np.asarray(reading.nearness)[..., 0])
            color, shape = (np.asarray(reading.attributes[name])[:, 0] for name in ("color", "shape"))  # leftmost
            classes.append(np.reshape(color[:, :, np.newaxis] + shape[:, np.newaxis], (len(color), -1)))
        return Seen(statements, np.concatenate(nearness), np.concatenate(classes))

    def features(self, images) -> tf.Tensor:
        """Features float32 [B, D] of images [B, S, S, 3] in [-1, 1], from which the network reads the whole scene."""
        return self._features(images)


def _statements(values: dict[str, np.ndarray]) -> list[Statements]:
    """Statements from indices into TABLES: of attributes [B, N], of the scene [B]; "count" is one less."""
    return [
        Statements(
            tuple({name: TABLES[name][values[name][i, j]] for name in ATTRIBUTES} for j in range(count + 1)),
            **{name: TABLES[name][values[name][i]] for name in SCENE},
        )
        for i, count in enumerate(values["count"])
    ]


def load_reader(folder: str | Path) -> Reader:
    """Read the folder that training with method reader made.

    Raises:
        UserError: a missing, truncated or foreign part, or a network that was trained for another world.
    """
    folder = as_path(folder)
    config = read_json(folder / CONFIG)
    if config.get("_class_name") != _CLASS:
        raise UserError(f"{folder}: holds no reader of scenes; name the folder of one")
    check(config, SCHEMA, folder / CONFIG, "train the reader again")
    sizes = {key: config[key] for key in VOCABULARY}
    if config["words"] != _WORDS or sizes != VOCABULARY:
        raise UserError(f"{folder}: reads scenes of another world than codi_tf.scenes.world; train the reader again")
    arguments = {key: config[key] for key in ("stem", "widths", "blocks", "groups")}

    def make() -> SceneReader:
        try:
            network = SceneReader(name="reader", **VOCABULARY, **arguments)
        except ValueError as error:
            raise UserError(f"{folder / CONFIG}: not the configuration of a reader of scenes ({error})") from None
        network.build()
        return network

    path = folder / WEIGHTS
    with built_in(make_policy()):
        network = make_from(make, read_header(path)[0], path)
    return Reader(network, config["image_size"])
