"""The largest sizes that files and options may ask for, far beyond those of real models and data.

They are checked before memory is requested, so that a number with too many zeros is a one-line error and does not fill
the memory.
"""

from __future__ import annotations

from typing import Any

from codi_tf.core.errors import UserError

MAX_SIDE = 8192  # of an image, in pixels
MAX_FILE = 1 << 30  # of an image or a text, in bytes
MAX_EXAMPLES = 1_000_000_000
MAX_SEED = 2**63 - 1
MAX_TIMES = 1_000_000  # of a schedule
MAX_LAYERS = 128  # of a transformer
MAX_BLOCKS = 32  # of a level of resolution
MAX_LEVELS = 8  # of resolution in a network
MAX_WIDTH = 1 << 17  # channels of a layer, and positions of a text
MAX_WORDS = 1 << 22  # in a vocabulary
MAX_CONDITION_SCALE = 10  # how many times a condition counts


def check_most(settings: Any, prefix: str, **most: int) -> None:
    """Raise UserError for an attribute of `settings` above the given number."""
    for name, limit in most.items():
        if getattr(settings, name) > limit:
            raise UserError(f"{prefix}{name} is {getattr(settings, name)}: it must be at most {limit}")
