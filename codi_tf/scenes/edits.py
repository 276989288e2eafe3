"""Edits: a scene, an instruction, and the scene after the edit, which differs in one thing.

make the red cube blue        make the small sphere large      make the cone shiny      turn the cube into a sphere
remove the small green cone   add a large matte red cube on the left     make the floor wooden     make it night

Two in three instructions name the object as briefly as is unique: "the cube" if there is one cube.
"""

from __future__ import annotations

from typing import NamedTuple

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.seeds import fold_in
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.camera import camera_at
from codi_tf.scenes.captions import filled, word
from codi_tf.scenes.drawing import draw_scene, is_valid
from codi_tf.scenes.grammar import INSTRUCTIONS, OBJECT, SIDES, TABLES, VALUES
from codi_tf.scenes.world import MOST_OBJECTS, Scene

KINDS = tuple(INSTRUCTIONS)
BRIEF = 2 / 3  # share of instructions that name the object briefly
_BRIEF_NAMES = (  # what names say, the first that is unique is taken
    ("shape",),
    ("color", "shape"),
    ("size", "shape"),
    ("material", "shape"),
    ("size", "color", "shape"),
    ("material", "color", "shape"),
    ("size", "material", "shape"),
)


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

    "size" needs room for the object in its other size; "remove" and "add" need a second object.
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

    def other(field: str) -> Tensor:  # another value than the present one
        table, now = TABLES[field], getattr(full, field)
        now = now if field in ("floor", "light") else now[chosen]
        step = 1 + tf.cast(u[2] * (len(table) - 1), tf.int32)
        return tf.math.floormod(now + step, len(table))

    def changed(field: str) -> Scene:
        return full._replace(**{field: _set(getattr(full, field), chosen, other(field))})

    candidates = {
        "color": (full, changed("color")),
        "shape": (full, changed("shape")),
        "size": (full, grown),
        "material": (full, changed("material")),
        "remove": (full, fewer),
        "add": (fewer, full),
        "floor": (full, full._replace(floor=other("floor"))),
        "light": (full, full._replace(light=other("light"))),
    }
    before, after = (
        Scene(*(tf.stack(list(values))[kind] for values in zip(*(candidates[k][i] for k in KINDS), strict=True)))
        for i in range(2)
    )
    v = tf.unstack(tf.random.stateless_uniform([2], fold_in(seed, 2)))
    values = {field: _value(field, other(field)) for field in KINDS if field not in ("remove", "add")}
    value = tf.stack([values.get(k, tf.constant("")) for k in KINDS])[kind]
    name = tf.where(kind == KINDS.index("add"), _whole_name(full, chosen), name_of(full, chosen, v[0] < BRIEF))
    widest = max(map(len, INSTRUCTIONS.values()))
    table = tf.constant([[row[i % len(row)] for i in range(widest)] for row in INSTRUCTIONS.values()])
    phrasing = table[kind, tf.cast(v[1] * widest, tf.int32)]
    instruction = filled(phrasing, {"name": name, "value": value, "side": _side(full, chosen)})
    return Edit(before, after, instruction, kind, tf.where(kind < 6, chosen, -1))


def _set(values: Tensor, index: Tensor, value: Tensor) -> Tensor:
    return tf.where(tf.range(MOST_OBJECTS) == index, value, values)


def _without(scene: Scene, index: Tensor) -> Scene:
    """The scene without one of its objects; those to its right move up."""
    places = tf.range(MOST_OBJECTS)
    moved = tf.minimum(tf.where(places >= index, places + 1, places), MOST_OBJECTS - 1)
    fields = ("shape", "color", "size", "material", "x", "z", "turn")
    return scene._replace(count=scene.count - 1, **{f: tf.gather(getattr(scene, f), moved) for f in fields})


def _value(field: str, index: Tensor) -> Tensor:
    """The word of an attribute's new value."""
    if field in VALUES:
        return tf.constant([VALUES[field][name][0] for name in TABLES[field]])[index]
    return word(field, index, tf.zeros([]))


def _whole_name(scene: Scene, index: Tensor) -> Tensor:
    """All that an object is: "small shiny red cube"."""
    return tf.strings.join([_value(kind, getattr(scene, kind)[index]) for kind in OBJECT], " ")


def name_of(scene: Scene, index: Tensor, brief: Tensor) -> Tensor:
    """An object's name, which no other object of the scene has.

    Args:
        scene: the scene.
        index: int32 [], of the object.
        brief: bool []; says of the object what makes it unique. False: all that it is.
    """
    others = (tf.range(MOST_OBJECTS) < scene.count) & (tf.range(MOST_OBJECTS) != index)
    same = {kind: getattr(scene, kind) == getattr(scene, kind)[index] for kind in OBJECT}  # [MOST_OBJECTS]
    words = {kind: _value(kind, getattr(scene, kind)[index]) for kind in OBJECT}
    twin = tf.reduce_any(others & tf.reduce_all(tf.stack(list(same.values())), 0))
    whole = _whole_name(scene, index)
    name = tf.where(twin, tf.strings.join([whole, _side(scene, index)], " "), whole)
    for kinds in reversed(_BRIEF_NAMES):
        alike = others & tf.reduce_all(tf.stack([same[kind] for kind in kinds]), 0)
        fits = brief & ~tf.reduce_any(alike)
        name = tf.where(fits, tf.strings.join([words[kind] for kind in kinds], " "), name)
    return name


def _side(scene: Scene, index: Tensor) -> Tensor:
    """Where an object stands among the others: one of SIDES."""
    place = tf.where(index == 0, 0, tf.where(index == scene.count - 1, 2, 1))
    return tf.constant(SIDES)[place]
