"""A program for test_xla.py: lowers the whole training step of a config for XLA; arguments: config, overrides.

What XLA keeps of a step stays in memory until its process ends: hence a process for each.
"""

from __future__ import annotations

import sys

from codi_tf import config
from codi_tf.cli import start_tensorflow

if __name__ == "__main__":
    start_tensorflow()
    import tensorflow as tf

    from codi_tf.experiment import build_dataset, build_trainer

    experiment = config.load(sys.argv[1], sys.argv[2:])
    trainer = build_trainer(experiment)
    batch = next(iter(build_dataset(experiment, trainer, 0)))
    step = tf.function(trainer.train_step, autograph=False, jit_compile=True)
    print(len(step.experimental_get_compiler_ir(batch)(stage="hlo_serialized")))
