"""Runtimes, which run the formats' files, one module each.

A new runtime is a module of this folder that declares it and imports nothing heavy; a format names it in `runtimes`:

    @RUNTIMES.register("mine")
    class Mine(Runtime): ...
"""

from codi_tf.core.registry import Registry

RUNTIMES = Registry("runtime", "RUNTIMES", "export.formats.runtimes")
