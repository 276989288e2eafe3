"""Reading scenes: what a trained network sees in images, as statements, and the folder that holds the network."""

from __future__ import annotations

from pathlib import Path

from codi_tf.core.errors import UserError
from codi_tf.core.limits import MAX_SIDE, MAX_WIDTH
from codi_tf.core.precision import built_in, make_policy
from codi_tf.io.json_files import read_json
from codi_tf.io.schema import Each, OneOf, Record, Text, Whole, check
from codi_tf.io.weights import CONFIG, load_network, save_network
from codi_tf.models.scene_reader import SceneReader
from codi_tf.scenes.captions import TABLES
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
        "blocks": Whole(0, 100),
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


def load_network_of(folder: Path) -> tuple[SceneReader, int]:
    """The network in a folder, and the side of the images that it was trained on.

    Raises:
        UserError: a missing, truncated or foreign part, or a network that was trained for another world.
    """
    config = read_json(folder / CONFIG)
    if config.get("_class_name") != _CLASS:
        raise UserError(f"{folder}: holds no reader of scenes; name the folder of one")
    check(config, SCHEMA, folder / CONFIG, "train the reader again")
    sizes = {key: config[key] for key in VOCABULARY}
    if config["words"] != _WORDS or sizes != VOCABULARY:
        raise UserError(f"{folder}: reads scenes of another world than codi_tf.scenes.world; train the reader again")
    with built_in(make_policy()):
        try:
            arguments = {key: config[key] for key in ("stem", "widths", "blocks", "groups")}
            network = SceneReader(name="reader", **VOCABULARY, **arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{folder / CONFIG}: not the configuration of a reader of scenes ({error})") from None
        network.build()
    load_network(network, folder)
    return network, config["image_size"]
