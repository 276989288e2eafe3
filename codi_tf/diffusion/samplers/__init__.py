"""Samplers: each module declares one family, as functions that make the time grid. Names need no TensorFlow.

To add one, decorate a function in a module of this package, or of your own:

    @SAMPLERS.register("name")
    def name_grid(schedule: Schedule, num_steps: int) -> Grid: ...

It gives `num_steps` steps of a conditional model, the first at the noisiest time and the last ending at the data. A
sampler that text-to-image offers as well has a second function, registered in `CHECKPOINT_SAMPLERS`, which follows a
checkpoint's scheduler_config.json:

    @CHECKPOINT_SAMPLERS.register("name")
    def checkpoint_grid(config: dict, schedule: Schedule, num_steps: int) -> Grid: ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from codi_tf.core.registry import Registry

if TYPE_CHECKING:
    from codi_tf.diffusion.grid import Grid
    from codi_tf.diffusion.process import Schedule

SAMPLERS: Registry[Callable[[Schedule, int], Grid]] = Registry("sampler", "SAMPLERS", "codi_tf.diffusion.samplers")
CHECKPOINT_SAMPLERS: Registry[Callable[[dict, Schedule, int], Grid]] = Registry(
    "sampler", "CHECKPOINT_SAMPLERS", "codi_tf.diffusion.samplers"
)
