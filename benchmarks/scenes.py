"""python -m benchmarks.scenes: milliseconds of one core for a rendered scene.

Scenes are drawn and rendered in tf.data with one thread, as training does. Beside them stands what the machine needs
for one element-wise operation (a multiplication) on as many numbers as the scene has rays, four a pixel: by the ratio,
figures of different machines can be compared. Both take turns; figures are medians over the turns, by processor time.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow

TURN = 24  # scenes
WARM_UP = 2  # turns
OPERATIONS = 200  # of the other candidate in a turn


def milliseconds(size: int, rounds: int) -> tuple[float, float]:
    """Of processor time, for a scene of size x size pixels and for one operation on as many numbers as it has rays."""
    candidates = [(_scenes(size), TURN), (_products(4 * size**2), OPERATIONS)]
    taken: list[list[float]] = [[], []]
    for turn in range(WARM_UP + rounds):
        for (run, count), measured in zip(candidates, taken, strict=True):
            began = time.process_time()
            run()
            if turn >= WARM_UP:
                measured.append(1000 * (time.process_time() - began) / count)
    scene, operation = map(statistics.median, taken)
    return scene, operation


def _scenes(size: int) -> Callable[[], object]:
    import tensorflow as tf

    from codi_tf.data.scenes import Scenes

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False  # no scene is rendered in the other candidate's turn
    source = Scenes("train")
    draw = source.drawer(image_size=size, augment=False, recolor=False)
    examples = tf.data.Dataset.range(2**31 - 1).map(lambda i: draw(i, tf.stack([0, tf.cast(i, tf.int32)])))
    scenes = iter(examples.with_options(options))
    return lambda: [next(scenes) for _ in range(TURN)]


def _products(numbers: int) -> Callable[[], object]:
    import tensorflow as tf

    @tf.function
    def chain(x: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(OPERATIONS // 10):
            for _ in range(10):
                x = x * factor
        return x

    start = tf.ones([numbers])
    return lambda: chain(start, start).numpy()


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.scenes", description="Milliseconds for a rendered scene.")
    parser.add_argument("--sizes", default="64,128", help="sides of the images in pixels (default: 64,128)")
    parser.add_argument("--rounds", type=int, default=9, help=f"turns of {TURN} scenes that count (default: 9)")
    options = parser.parse_args(arguments)
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"  # before TensorFlow starts
    start_tensorflow()
    for size in (int(size) for size in options.sizes.split(",")):
        scene, operation = milliseconds(size, options.rounds)
        print(f"{size:4} px  {scene:6.1f} ms a scene   = {scene / operation:4.0f} operations of {operation:.3f} ms")


if __name__ == "__main__":
    sys.exit(run_command(_main))
