"""Training methods, one file each, with their options and their loss; see `method`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codi_tf.core.registry import Registry

if TYPE_CHECKING:
    from codi_tf.methods.method import MethodSettings

METHODS: Registry[type[MethodSettings]] = Registry("method", "METHODS", "codi_tf.methods")
