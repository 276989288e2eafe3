"""Captions: from a scene to a sentence, and from a sentence back to what it states.

The grammar is data. A caption names the objects from left to right, the floor and the light:

    a large matte yellow cone and a small shiny blue sphere on a sandy floor at night
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from codi_tf.core.errors import UserError
from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.seeds import fold_in
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.world import COLORS, FLOORS, LIGHTS, MOST_OBJECTS, Scene

# the first word is the one of `caption`; all are understood
WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "size": {"small": ("small", "little"), "large": ("large", "big")},
    "material": {"matte": ("matte", "dull"), "shiny": ("shiny", "glossy")},
    "color": {name: (name,) for name in COLORS},
    "shape": {
        "sphere": ("sphere", "ball"),
        "cube": ("cube", "block"),
        "cylinder": ("cylinder", "drum"),
        "cone": ("cone",),
    },
    "floor": {
        "wooden": ("on a wooden floor", "on wood"),
        "tiled": ("on a tiled floor", "on tiles"),
        "sandy": ("on a sandy floor", "on sand"),
        "grassy": ("on a grassy floor", "on grass"),
    },
    "light": {
        "noon": ("at noon", "in daylight"),
        "sunset": ("at sunset", "in the evening"),
        "night": ("at night", "in the dark"),
    },
}
TABLES = {kind: tuple(words) for kind, words in WORDS.items()}
_OBJECT = ("size", "material", "color", "shape")


@dataclass(frozen=True)
class Statements:
    """What a caption states.

    Attributes:
        objects: from left to right, each attribute -> value; an attribute that is not named is missing.
        floor, light: values, or None where the caption names none.
        unknown: the words that the grammar does not have.
    """

    objects: tuple[dict[str, str], ...]
    floor: str | None
    light: str | None
    unknown: tuple[str, ...] = ()


def caption(scene: Scene, seed: Tensor | None = None) -> Tensor:
    """The caption of a scene, a string [].

    Args:
        scene: the scene.
        seed: int32 [2]; draws synonyms, and where floor and light stand. None: the first words, in the usual order.
    """
    drawn = tf.zeros([4, MOST_OBJECTS]) if seed is None else tf.random.stateless_uniform([4, MOST_OBJECTS], seed)
    place = tf.zeros([3]) if seed is None else tf.random.stateless_uniform([3], fold_in(seed, 1))
    words = [_word(kind, getattr(scene, kind), drawn[i]) for i, kind in enumerate(_OBJECT)]
    names = tf.strings.join(["a", *words], " ")  # [MOST_OBJECTS]
    two = tf.strings.join([names[0], names[1]], " and ")
    three = tf.strings.join([names[0], tf.strings.join([names[1], names[2]], " and ")], ", ")
    objects = tf.stack([names[0], two, three])[scene.count - 1]
    where = tf.strings.join([_word("floor", scene.floor, place[0]), _word("light", scene.light, place[1])], " ")
    usual, turned = tf.strings.join([objects, where], " "), tf.strings.join([where, objects], ", ")
    return tf.where(place[2] < 0.75, usual, turned)


def _word(kind: str, index: Tensor, u: Tensor) -> Tensor:
    """The words of indices, one of the synonyms by u in [0, 1); the first for u = 0."""
    table = [WORDS[kind][name] for name in TABLES[kind]]
    widest = max(map(len, table))
    words = tf.constant([[row[i % len(row)] for i in range(widest)] for row in table])
    which = tf.cast(tf.cast(u, tf.float32) * widest, tf.int32)
    return tf.gather_nd(words, tf.stack([index, which], -1))


def parse(text: str) -> Statements:
    """What a caption states; the result names the words that the grammar does not have.

    Raises:
        UserError: more than MOST_OBJECTS objects.
    """
    rest = " ".join(re.findall(r"[^\s,.;:!?]+", text.lower()))
    found: dict[str, str | None] = {"floor": None, "light": None}
    for kind in found:
        for value, phrases in WORDS[kind].items():
            for phrase in phrases:
                rest, count = re.subn(rf"\b{phrase}\b", " ", rest)
                if count:
                    found[kind] = value
    meaning = {word: (kind, value) for kind in _OBJECT for value, words in WORDS[kind].items() for word in words}
    objects, current, unknown = [], {}, []
    for word in rest.split():
        if word in ("a", "an", "the", "and", "with", "one"):
            continue
        if word not in meaning:
            unknown.append(word)
            continue
        kind, value = meaning[word]
        current[kind] = value
        if kind == "shape":  # the noun ends the name of an object
            objects.append(current)
            current = {}
    if len(objects) > MOST_OBJECTS:
        raise UserError(f"{text!r} names {len(objects)} objects: scenes have at most {MOST_OBJECTS}")
    return Statements(tuple(objects), found["floor"], found["light"], tuple(unknown))


def statements(scene: Scene) -> Statements:
    """What is true of a scene. Its tensors must be eager."""
    objects = tuple(
        {kind: TABLES[kind][int(getattr(scene, kind)[i])] for kind in _OBJECT} for i in range(int(scene.count))
    )
    return Statements(objects, FLOORS[int(scene.floor)], LIGHTS[int(scene.light)])
