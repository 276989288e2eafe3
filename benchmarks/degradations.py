"""python -m benchmarks.degradations: photos degraded per second, on one core, for each task.

Each task degrades the same photo in tf.data with one thread, as training does. `real_esrgan_opencv` does the same steps
as the Real-ESRGAN degradation in NumPy and OpenCV, with one thread, too. They take turns. Rates are medians over the
turns, by processor time, which hardly depends on other work on the machine, and by the clock. The mean change of the
photo shows whether two of them do the same. --shares adds the Real-ESRGAN degradation without some of its parts, to
show where its time goes.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow

if TYPE_CHECKING:
    import numpy as np

PHOTO = "astronaut"
TURN = 16  # photos
WARM_UP = 2  # turns
OURS, OPENCV = "real_world", "opencv"


def rates(sizes: list[int], rounds: int, *, opencv: bool = True, shares: bool = False) -> None:
    """Print images per second and mean changes of photos of size x size."""
    import numpy as np
    import tensorflow as tf

    from codi_tf.data import load_photos
    from codi_tf.io.images import resize
    from codi_tf.tasks.real_world import RealWorld
    from codi_tf.tasks.super_resolution import SuperResolution

    tasks = {"super_resolution": SuperResolution(), OURS: RealWorld()}
    if shares:
        tasks["no blur"] = RealWorld(kernel_range=(1, 1))
        tasks["Gaussian noise only"] = RealWorld(gaussian_noise_prob=1.0, gaussian_noise_prob2=1.0)
        tasks["Poisson noise only"] = RealWorld(gaussian_noise_prob=0.0, gaussian_noise_prob2=0.0)
        tasks["no change of size"] = RealWorld(resize_prob=(0, 0, 1), resize_prob2=(0, 0, 1))
    for size in sizes:
        photo = 2 * resize(load_photos("heldout")[PHOTO] / np.float32(255), size, size) - 1
        image = tf.constant(photo)
        candidates = {name: _in_tf_data(task, image) for name, task in tasks.items()}
        if opencv:
            candidates[OPENCV] = _in_opencv(tasks[OURS], photo)
        measured = _turns(candidates, photo, rounds)
        for name, (processor, clock, change) in measured.items():
            columns = (
                f"{1 / processor:8.1f} images/s of a core {1 / clock:8.1f} by the clock   mean change {change:.3f}"
            )
            ratio = measured[OPENCV][0] / processor if opencv else measured["super_resolution"][0] / processor
            print(f"{size:4} px  {name:<20}{columns}   {ratio:5.2f} x {OPENCV if opencv else 'super_resolution'}")


def _in_tf_data(task, image) -> Callable[[], object]:
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False  # no photo is degraded in another task's turn

    @tf.autograph.experimental.do_not_convert
    def degrade(index: tf.Tensor) -> tf.Tensor:
        return task.degrade(image, tf.stack([0, tf.cast(index, tf.int32)]))

    photos = iter(tf.data.Dataset.range(2**31 - 1).map(degrade).with_options(options))
    return lambda: next(photos).numpy()


def _in_opencv(task, photo) -> Callable[[], object]:
    import numpy as np

    from benchmarks import real_esrgan_opencv

    random = np.random.default_rng(0)
    return lambda: real_esrgan_opencv.degrade(photo, task, random)


def _turns(
    candidates: dict[str, Callable[[], object]], photo: np.ndarray, rounds: int
) -> dict[str, tuple[float, float, float]]:
    """For each candidate the median seconds per photo, by processor and by clock, and the mean change of the photo."""
    measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in candidates}
    for turn in range(WARM_UP + rounds):
        for name, run in candidates.items():
            processor, clock = time.process_time(), time.perf_counter()
            outputs = [run() for _ in range(TURN)]
            taken = (time.process_time() - processor) / TURN, (time.perf_counter() - clock) / TURN
            if turn >= WARM_UP:
                measured[name].append((*taken, statistics.mean(float(abs(one - photo).mean()) for one in outputs)))
    summaries = (statistics.median, statistics.median, statistics.mean)
    return {
        name: tuple(summary(column) for summary, column in zip(summaries, zip(*rows, strict=True), strict=True))
        for name, rows in measured.items()
    }


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.degradations", description="Photos degraded per second.")
    parser.add_argument("--sizes", default="64,256,512", help="sides of the photos (default: 64,256,512)")
    parser.add_argument("--rounds", type=int, default=15, help=f"turns of {TURN} photos that count (default: 15)")
    parser.add_argument("--without-opencv", action="store_true", help="the tasks only")
    parser.add_argument("--shares", action="store_true", help="also without some of the parts")
    options = parser.parse_args(arguments)
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = "1"  # before TensorFlow starts
    if not options.without_opencv:
        import benchmarks.real_esrgan_opencv  # noqa: F401  (fails early if OpenCV is missing)
    start_tensorflow()
    sizes = [int(size) for size in options.sizes.split(",")]
    rates(sizes, options.rounds, opencv=not options.without_opencv, shares=options.shares)


if __name__ == "__main__":
    sys.exit(run_command(_main))
