"""A program for test_xla.py: lowers the whole training step of a config for XLA, and runs it if it is to.

Arguments: "lower" or "run"; config; overrides. Prints what it saw as JSON. XLA draws other random numbers than a step
that is not compiled, so the figures of the two are not comparable. What XLA keeps of a step stays in memory until its
process ends: hence a process for each.
"""

from __future__ import annotations

import json
import sys

from codi_tf import config
from codi_tf.core.command_line import start_tensorflow


def weights(trainer):
    return np.concatenate([v.numpy().ravel() for v in trainer.trainable_variables])


if __name__ == "__main__":
    start_tensorflow()
    import numpy as np
    import tensorflow as tf

    from codi_tf.training.experiment import build_dataset, build_trainer

    what, experiment = sys.argv[1], config.load(sys.argv[2], sys.argv[3:])
    trainer = build_trainer(experiment)
    trainer.optimizer.iterations.assign(max(experiment.train.warmup_steps, 1))  # the rate is 0 before
    batch = next(iter(build_dataset(experiment, trainer, 0)))
    step = tf.function(trainer.train_step, autograph=False, jit_compile=True)
    found = {"lowered": len(step.experimental_get_compiler_ir(batch)(stage="hlo_serialized"))}
    if what == "run":
        start = weights(trainer)
        found["logs"] = {name: float(value) for name, value in step(batch).items()}
        found["moved"] = float(np.linalg.norm(weights(trainer) - start))
    print(json.dumps(found))
