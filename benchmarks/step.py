"""python -m benchmarks.step: the time of a training step against its bare network passes, in one run.

Bare: the student's forward pass, the target's forward pass, the student's backward pass. As in the algorithm, the
target's input is the student's prediction, and the loss needs both, so both have the same chance to run in parallel.
The step adds the draws, the loss, clipping, AdamW, the learning rate of mu and the moving averages.
"""

from __future__ import annotations

import sys

from benchmarks.demo import trainer_and_batch
from benchmarks.timing import side_by_side
from codi_tf.core.command_line import run_command, start_tensorflow


def measure() -> dict[str, float]:
    """Median seconds of "step" and "bare" at the sizes of the demo."""
    start_tensorflow()
    import tensorflow as tf

    _, trainer, batch = trainer_and_batch()
    base, x, c = trainer.base, *batch.values()
    conditioning = base.conditioning()
    z_t = tf.random.stateless_normal(x.shape, (0, 2))
    t, s = tf.constant([600]), tf.constant([560])

    @tf.function
    def bare():
        with tf.GradientTape() as tape:
            prediction = trainer.student(z_t, t, trainer.student.condition(c, conditioning), conditioning)
            z_s = tf.stop_gradient(prediction)
            target = trainer.target(z_s, s, trainer.target.condition(c, conditioning), conditioning)
            loss = tf.reduce_mean(tf.square(prediction - target))
        # Every gradient is read, or TensorFlow would prune the work.
        return tf.add_n([tf.reduce_sum(g) for g in tape.gradient(loss, trainer.trainable_variables)])

    step = tf.function(trainer.train_step)
    return side_by_side({"step": lambda: step(batch), "bare": bare})


def _main(arguments: list[str]) -> None:
    seconds = measure()
    print(f"training step  {1e3 * seconds['step']:7.1f} ms")
    print(f"bare networks  {1e3 * seconds['bare']:7.1f} ms")
    print(f"ratio          {seconds['step'] / seconds['bare']:7.3f}   (bar: 1.15)")


if __name__ == "__main__":
    sys.exit(run_command(_main))
