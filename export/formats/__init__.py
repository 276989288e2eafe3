"""File formats of exported models, one package each.

A new format is a package of this folder whose `__init__.py` declares it; it imports nothing heavy:

    @FORMATS.register("mine")
    class Mine(Format): ...
"""

from codi_tf.core.registry import Registry

FORMATS = Registry("format", "FORMATS", "export.formats")
