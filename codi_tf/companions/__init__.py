"""Companions of an image that tasks make conditions of. Every module declares one; to add one, see `Companion`."""

from codi_tf.io.companions import COMPANIONS, Companion

__all__ = ["COMPANIONS", "Companion"]
