"""python -m benchmarks.degradations: photos degraded a second, on one core, task beside task in one run.

Each task degrades the same photos in tf.data with one thread, as training does; the tasks take turns.
--shares adds the Real-ESRGAN degradation without some of its parts, to tell where its time goes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.timing import side_by_side
from codi_tf.cli import ArgumentParser, run_command, start_tensorflow

if TYPE_CHECKING:
    from codi_tf.tasks import Task

PHOTOS = 16  # a turn


def images_per_second(tasks: dict[str, Task], size: int, rounds: int) -> dict[str, float]:
    """Medians over the rounds, of photos of size x size."""
    import numpy as np
    import tensorflow as tf

    image = tf.constant(np.random.default_rng(0).uniform(-1, 1, (size, size, 3)), tf.float32)
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1

    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False  # no photo is degraded in another task's turn

    def turns(task: Task) -> Callable[[], object]:
        @tf.autograph.experimental.do_not_convert
        def degrade(index: tf.Tensor) -> tf.Tensor:
            return task.degrade(image, tf.stack([0, tf.cast(index, tf.int32)]))

        photos = iter(tf.data.Dataset.range(2**31 - 1).map(degrade).with_options(options))
        return lambda: [next(photos) for _ in range(PHOTOS)]

    seconds = side_by_side({name: turns(task) for name, task in tasks.items()}, rounds=rounds)
    return {name: PHOTOS / taken for name, taken in seconds.items()}


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.degradations", description="Photos degraded a second.")
    parser.add_argument("--sizes", default="64,256", help="sides of the photos (default: 64,256)")
    parser.add_argument("--rounds", type=int, default=15, help="turns that count (default: 15)")
    parser.add_argument("--shares", action="store_true", help="also without some of the parts")
    options = parser.parse_args(arguments)
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"  # before TensorFlow starts
    start_tensorflow()
    from codi_tf.tasks.real_world import RealWorld
    from codi_tf.tasks.super_resolution import SuperResolution

    tasks = {"super_resolution": SuperResolution(), "real_world": RealWorld()}
    if options.shares:
        tasks["no Poisson noise"] = RealWorld(gaussian_noise_prob=1.0, gaussian_noise_prob2=1.0)
        tasks["no sinc filter"] = RealWorld(sinc_prob=0.0, sinc_prob2=0.0, final_sinc_prob=0.0)
        tasks["no change of size"] = RealWorld(resize_prob=(0, 0, 1), resize_prob2=(0, 0, 1))
    for size in map(int, options.sizes.split(",")):
        rates = images_per_second(tasks, size, options.rounds)
        for name, rate in rates.items():
            ratio = rate / rates["super_resolution"]
            print(f"{size:4} px  {name:<18} {rate:8.1f} images/s  {ratio:5.2f} x super_resolution")


if __name__ == "__main__":
    sys.exit(run_command(_main))
