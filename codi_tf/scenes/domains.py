"""Domains: scenes that differ in one thing alone, for the transfer from one domain to another."""

from __future__ import annotations

from typing import NamedTuple

from codi_tf.core.lazy import tensorflow as tf
from codi_tf.core.tensors import Tensor
from codi_tf.scenes.drawing import draw_scene
from codi_tf.scenes.edits import KINDS, Edit
from codi_tf.scenes.grammar import TABLES
from codi_tf.scenes.world import Scene


class Transfer(NamedTuple):
    """A transfer: the attribute that changes (an object's changes in all of them), its values, and the instruction."""

    attribute: str
    before: str
    after: str
    instruction: str


TRANSFERS = {
    "noon-to-night": Transfer("light", "noon", "night", "make it night"),
    "wooden-to-tiled": Transfer("floor", "wooden", "tiled", "make the floor tiled"),
    "matte-to-shiny": Transfer("material", "matte", "shiny", "make all objects shiny"),
}


DOMAINS = {name: one.attribute for one in TRANSFERS.values() for name in (one.before, one.after)}


def in_domain(scene: Scene, name: str) -> Scene:
    """The scene with the attribute that makes it one of a domain of DOMAINS."""
    return _with(scene, DOMAINS[name], name)


def draw_transfer(seed: Tensor, transfer: Transfer) -> Edit:
    """The edit of a seed, int32 [2], that takes a scene from one domain to the other."""
    before, after = counterparts(draw_scene(seed), transfer)
    kind, text = KINDS.index(transfer.attribute), transfer.instruction
    return Edit(before, after, tf.constant(text), tf.constant(kind), tf.constant(-1))


def counterparts(scene: Scene, transfer: Transfer) -> tuple[Scene, Scene]:
    """A scene in the domain that a transfer starts from, and in the one that it leads to.

    Args:
        scene: any scene; its own value of the attribute does not count.
        transfer: one of TRANSFERS.
    """
    return _with(scene, transfer.attribute, transfer.before), _with(scene, transfer.attribute, transfer.after)


def _with(scene: Scene, attribute: str, value: str) -> Scene:
    index = TABLES[attribute].index(value)
    return scene._replace(**{attribute: tf.fill(tf.shape(getattr(scene, attribute)), index)})
