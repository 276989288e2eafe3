"""Captions: from a scene to a sentence, and from a sentence back to what it states.

The grammar is data, see `codi_tf.scenes.grammar`. The usual caption names the objects from left to right, the floor and
the light:

    a large matte yellow cone and a small shiny blue sphere on a sandy floor at night
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from codi_tf.core.errors import UserError
from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.seeds import fold_in
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.camera import camera_at, project
from codi_tf.scenes.grammar import (
    ALIKE,
    FILLERS,
    NUMBERS,
    OBJECT,
    ONE,
    PHRASINGS,
    PLACES,
    RELATIONS,
    TABLES,
    THINGS,
    WORDS,
)
from codi_tf.scenes.world import FLOORS, LIGHTS, MOST_OBJECTS, Scene

NEARER = 0.3  # least difference of two objects' distances of which captions say "in front of"
USUAL = 0.4  # share of the usual phrasings among drawn ones


@dataclass(frozen=True)
class Statements:
    """What a caption states.

    Attributes:
        objects: from left to right, each attribute -> value; an attribute that is not named is missing.
        floor, light: values, or None where the caption names none.
        unknown: the words that the grammar does not have.
        in_front: pairs (i, j) of objects: i stands in front of j. Most captions say nothing of it; equal statements may
            differ in it.
    """

    objects: tuple[dict[str, str], ...]
    floor: str | None
    light: str | None
    unknown: tuple[str, ...] = ()
    in_front: tuple[tuple[int, int], ...] = field(default=(), compare=False)


def caption(scene: Scene, seed: Tensor | None = None) -> Tensor:
    """The caption of a scene, a string [].

    Args:
        scene: the scene.
        seed: int32 [2]; draws synonyms and phrasings. None: the usual ones.
    """
    if seed is None:
        words, style = tf.zeros([len(OBJECT) + 2, MOST_OBJECTS]), tf.zeros([4])
    else:
        words = tf.random.stateless_uniform([len(OBJECT) + 2, MOST_OBJECTS], seed)
        style = tf.random.stateless_uniform([4], fold_in(seed, 1))
    last = scene.count - 1
    names = {kind: word(kind, getattr(scene, kind), words[i]) for i, kind in enumerate(OBJECT)}  # [MOST_OBJECTS] each
    common = {kind: _all_equal(getattr(scene, kind), scene.count) for kind in OBJECT}
    whole = _spoken(["a", *names.values()])
    rest = {kind: tf.where(common[kind], ONE if kind == "shape" else "", names[kind]) for kind in OBJECT}
    parts = _spoken(["a", *rest.values()])
    shared = {kind: tf.where(common[kind], names[kind][0], "") for kind in OBJECT}
    plural = tf.where(common["shape"], tf.strings.join([names["shape"][0], "s"]), THINGS)
    group = _spoken([shared["size"], shared["material"], shared["color"], plural])
    _, along = project(camera_at(scene.yaw, scene.height, scene.distance), scene.x, scene.z)
    farther = along[1] - along[0]
    stands = tf.where(farther > NEARER, RELATIONS["front"][0], RELATIONS["beside"][0])
    stands = tf.where(farther < -NEARER, RELATIONS["behind"][0], stands)
    number = tf.gather(tf.constant([len(row) for row in PHRASINGS]), last)
    index = _drawn(style[0], style[1], number)
    alike = tf.reduce_all(tf.stack(list(common.values()))) & (index == number - 1)
    widest = max(map(len, PHRASINGS))
    table = tf.constant([[row[i % len(row)] for i in range(widest)] for row in PHRASINGS])
    phrasing = tf.where(alike, tf.gather(tf.constant(ALIKE), last), table[last, index])
    slots = {str(i): whole[i] for i in range(MOST_OBJECTS)} | dict(zip("abc", tf.unstack(parts), strict=True))
    objects = filled(phrasing, slots | {"stands": stands, "shared": group})
    place = tf.constant(PLACES)[_drawn(style[2], style[3], len(PLACES))]
    floor, light = (word(kind, getattr(scene, kind), words[-i, 0]) for i, kind in enumerate(("floor", "light"), 1))
    return filled(place, {"objects": objects, "floor": floor, "light": light})


def word(kind: str, index: Tensor, u: Tensor) -> Tensor:
    """The words of indices, one of the synonyms by u in [0, 1); the first for u = 0."""
    table = [WORDS[kind][name] for name in TABLES[kind]]
    widest = max(map(len, table))
    words = tf.constant([[row[i % len(row)] for i in range(widest)] for row in table])
    which = tf.cast(tf.cast(u, tf.float32) * widest, tf.int32)
    return tf.gather_nd(words, tf.stack([index, which], -1))


def filled(phrasing: Tensor, slots: dict[str, Tensor]) -> Tensor:
    """A phrasing, string [], with texts in place of its {slots}."""
    for name, text in slots.items():
        phrasing = tf.strings.regex_replace(phrasing, r"\{" + name + r"\}", text)
    return phrasing


def _spoken(words: list[Tensor]) -> Tensor:
    """Words, of which some are empty, as one text."""
    text = tf.strings.regex_replace(tf.strings.join(words, " "), " +", " ")
    return tf.strings.regex_replace(tf.strings.strip(text), "^a orange", "an orange")


def _drawn(u: Tensor, v: Tensor, number: Tensor | int) -> Tensor:
    """An index below a number: 0 for u < USUAL or u = 0, else drawn by v among the others."""
    other = 1 + tf.cast(v * (tf.cast(number, tf.float32) - 1), tf.int32)
    return tf.where((u < USUAL) | (number == 1), 0, other)


def _all_equal(values: Tensor, count: Tensor) -> Tensor:
    return tf.reduce_all((values == values[0]) | (tf.range(MOST_OBJECTS) >= count))


def parse(text: str) -> Statements:
    """What a caption states; the result names the words that the grammar does not have.

    Raises:
        UserError: more than MOST_OBJECTS objects.
    """
    rest = " ".join(re.findall(r"[^\s,.;:!?]+|:", text.lower()))
    found: dict[str, str | None] = {"floor": None, "light": None}
    for kind in found:
        for value, phrases in WORDS[kind].items():
            for phrase in phrases:
                rest, count = re.subn(rf"\b{phrase}\b", " ", rest)
                if count:
                    found[kind] = value
    spoken = {phrase: relation for relation, phrases in RELATIONS.items() for phrase in phrases}
    rest = re.sub(rf"\b({'|'.join(spoken)})\b", lambda found: f"<{spoken[found[0]]}>", rest)
    objects, relations, unknown = _mentioned(rest.split())
    if len(objects) > MOST_OBJECTS:
        raise UserError(f"{text!r} names {len(objects)} objects: scenes have at most {MOST_OBJECTS}")
    order: list[int] = []  # of the mentioned objects, from left to right
    for i, relation in enumerate(relations):
        if relation in ("right", "between"):  # "b right of a", "b between a and c": a stands before b
            order.insert(order.index(i - 1), i)
        else:
            order.append(i)
    places = {mentioned: place for place, mentioned in enumerate(order)}
    in_front = [(places[i - 1], places[i]) for i, relation in enumerate(relations) if relation == "front"]
    in_front += [(places[i], places[i - 1]) for i, relation in enumerate(relations) if relation == "behind"]
    named = tuple(objects[i] for i in order)
    return Statements(named, found["floor"], found["light"], tuple(unknown), tuple(in_front))


def _mentioned(words: list[str]) -> tuple[list[dict[str, str]], list[str | None], list[str]]:
    """The objects as they are mentioned, the relation of each to the one before it, and the unknown words."""
    meaning = {word: (kind, value) for kind in OBJECT for value, synonyms in WORDS[kind].items() for word in synonyms}
    plurals = {f"{word}s": value for value, synonyms in WORDS["shape"].items() for word in synonyms}
    objects: list[dict[str, str]] = []
    relations: list[str | None] = []
    unknown: list[str] = []
    shared, current, number, relation = {}, {}, 1, None
    for i, word in enumerate(words):
        ended: list[dict[str, str]] = []
        if word[1:-1] in RELATIONS:
            relation = word[1:-1]
        elif word in NUMBERS:
            number = NUMBERS[word]
        elif word in plurals or word == THINGS:
            group = current | ({"shape": plurals[word]} if word in plurals else {})
            if words[i + 1 : i + 2] == [":"]:  # a list of them follows
                shared, current = group, {}
            else:
                ended = [group] * number
        elif word in meaning:
            kind, value = meaning[word]
            current[kind] = value
            if kind == "shape":  # the noun ends the name of an object
                ended = [shared | current]
        elif word == ONE and current:
            ended = [shared | current]
        elif word not in (":", ONE, *FILLERS):
            unknown.append(word)
        if ended:
            objects += ended
            relations += [relation, *[None] * (len(ended) - 1)]
            current, number, relation = {}, 1, None
    return objects, relations, unknown


def statements(scene: Scene) -> Statements:
    """What is true of a scene. Its tensors must be eager."""
    count = int(scene.count)
    objects = tuple({kind: TABLES[kind][int(getattr(scene, kind)[i])] for kind in OBJECT} for i in range(count))
    _, along = project(camera_at(scene.yaw, scene.height, scene.distance), scene.x, scene.z)
    pairs = [(i, j) for i in range(count) for j in range(count) if float(along[j] - along[i]) > NEARER]
    return Statements(objects, FLOORS[int(scene.floor)], LIGHTS[int(scene.light)], in_front=tuple(pairs))
