"""Adapters: the networks that let a condition into the UNet, one file each.

A new adapter is a file of this folder, or a module from outside, with a class that extends `adapted.Adapter`:

    @ADAPTERS.register("mine")
    class Mine(Adapter): ...
"""

from codi_tf.core.registry import Registry

ADAPTERS = Registry("adapter", "ADAPTERS", "codi_tf.adapters")
