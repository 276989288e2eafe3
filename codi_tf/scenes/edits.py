"""Edits: a scene, an instruction, and the scene after the edit, which differs in one thing.

make the red cube blue        make the small sphere large      make the cone shiny      turn the cube into a sphere
remove the small green cone   add a large matte red cube on the left     make the floor wooden     make it night
"""

from __future__ import annotations

from typing import NamedTuple

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.seeds import fold_in
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.camera import camera_at
from codi_tf.scenes.captions import TABLES
from codi_tf.scenes.drawing import draw_scene, is_valid
from codi_tf.scenes.world import MOST_OBJECTS, Scene

KINDS = ("color", "shape", "size", "material", "remove", "add", "floor", "light")
_FLOOR_WORD, _LIGHT_WORD = TABLES["floor"], ("day", "sunset", "night")


class Edit(NamedTuple):
    """An edit.

    Attributes:
        before, after: the scenes.
        instruction: string [], UTF-8.
        kind: int32 [], into KINDS.
        object: int32 [], the object that is changed (its index before; for "add" its index after), or -1.
    """

    before: Scene
    after: Scene
    instruction: Tensor
    kind: Tensor
    object: Tensor


def draw_edit(seed: Tensor) -> Edit:
    """The edit of a seed, int32 [2]. Each kind that is possible in the scene is equally likely.

    The combinations of `drawing.HELD_OUT` occur.

    "size" and "shape" need room for the larger object, "remove" a second object, "add" a free place.
    """
    seeds = [fold_in(seed, stream) for stream in range(2)]
    full = draw_scene(seeds[0])
    u = tf.unstack(tf.random.stateless_uniform([4], seeds[1]))
    chosen = tf.cast(u[0] * tf.cast(full.count, tf.float32), tf.int32)
    grown = full._replace(size=_set(full.size, chosen, 1 - full.size[chosen]))
    camera = camera_at(full.yaw, full.height, full.distance)
    size_fits = is_valid(grown.count, grown.size, grown.x, grown.z, camera)
    several = full.count > 1
    yes = tf.constant(True)
    possible = tf.stack([yes, yes, size_fits, yes, several, several, yes, yes])
    # the k-th of the kinds that are possible
    rank = tf.cast(u[1] * tf.cast(tf.reduce_sum(tf.cast(possible, tf.int32)), tf.float32), tf.int32)
    order = tf.cumsum(tf.cast(possible, tf.int32)) - 1
    kind = tf.argmax(tf.cast(possible & (order == rank), tf.int32), output_type=tf.int32)
    fewer = _without(full, chosen)
    name = _name(full, chosen)

    def other(field: str) -> Tensor:  # another value than the present one
        table, now = TABLES[field], getattr(full, field)
        now = now if field in ("floor", "light") else now[chosen]
        step = 1 + tf.cast(u[2] * (len(table) - 1), tf.int32)
        return tf.math.floormod(now + step, len(table))

    def changed(field: str) -> Scene:
        return full._replace(**{field: _set(getattr(full, field), chosen, other(field))})

    def say(*parts) -> Tensor:
        return tf.strings.join(list(parts), " ")

    def word(field: str, words=None) -> Tensor:
        return tf.gather(tf.constant(words or TABLES[field]), other(field))

    side = _side(full, chosen)
    candidates = [
        (full, changed("color"), say("make the", name, word("color"))),
        (full, changed("shape"), say("turn the", name, "into a", word("shape"))),
        (full, grown, say("make the", name, word("size"))),
        (full, changed("material"), say("make the", name, word("material"))),
        (full, fewer, say("remove the", name)),
        (fewer, full, say("add a", name, side)),
        (full, full._replace(floor=other("floor")), say("make the floor", word("floor", _FLOOR_WORD))),
        (full, full._replace(light=other("light")), say("make it", word("light", _LIGHT_WORD))),
    ]
    before = Scene(*(tf.stack(list(values))[kind] for values in zip(*(c[0] for c in candidates), strict=True)))
    after = Scene(*(tf.stack(list(values))[kind] for values in zip(*(c[1] for c in candidates), strict=True)))
    instruction = tf.stack([c[2] for c in candidates])[kind]
    return Edit(before, after, instruction, kind, tf.where(kind < 6, chosen, -1))


def _set(values: Tensor, index: Tensor, value: Tensor) -> Tensor:
    return tf.where(tf.range(MOST_OBJECTS) == index, value, values)


def _without(scene: Scene, index: Tensor) -> Scene:
    """The scene without one of its objects; those to its right move up."""
    places = tf.range(MOST_OBJECTS)
    moved = tf.minimum(tf.where(places >= index, places + 1, places), MOST_OBJECTS - 1)
    fields = ("shape", "color", "size", "material", "x", "z", "turn")
    return scene._replace(count=scene.count - 1, **{f: tf.gather(getattr(scene, f), moved) for f in fields})


def _name(scene: Scene, index: Tensor) -> Tensor:
    """All that tells an object from others: "small shiny red cube"."""
    kinds = ("size", "material", "color", "shape")
    words = [tf.gather(tf.constant(TABLES[kind]), getattr(scene, kind)[index]) for kind in kinds]
    return tf.strings.join(words, " ")


def _side(scene: Scene, index: Tensor) -> Tensor:
    """Where an object stands among the others."""
    last = scene.count - 1
    middle = tf.where(index == last, tf.constant("on the right"), tf.constant("in the middle"))
    return tf.where(index == 0, tf.constant("on the left"), middle)
