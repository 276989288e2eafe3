"""python -m benchmarks.evaluate [BUNDLE]: the time to evaluate 1,000 samples at 4 steps, part by part.

Computes all metrics that need no weights from the user, with intervals. The time includes compiling.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from codi_tf.core.command_line import run_command, start_tensorflow

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "assets" / "photos-base"
COUNT, STEPS = 1000, 4
BAR = 300  # seconds, on two cores


def measure(bundle: Path) -> dict[str, float]:
    """Seconds of the parts, in their order."""
    start_tensorflow()
    import codi_tf
    from codi_tf import data
    from codi_tf.evaluation.features import load_features
    from codi_tf.evaluation.loading import metrics_with
    from codi_tf.evaluation.measuring import Evaluator
    from codi_tf.evaluation.samplers import model_sampler

    seconds, began = {}, time.perf_counter()

    def lap(part: str) -> None:
        nonlocal began
        now = time.perf_counter()
        seconds[part], began = now - began, now

    model = codi_tf.load(bundle)
    lap("loading")
    photos = data.load_photos("heldout")
    examples = data.evaluation_set(photos, model.task, image_size=model.image_size, count=COUNT, seed=0)
    lap("crops and conditions")
    images, latents = model_sampler(model, STEPS)(examples["condition"])
    lap("generation")
    metrics = metrics_with(load_features(ASSETS / "features").features)
    evaluator = Evaluator(examples["image"], examples["condition"], model.base, metrics, finish=model.task.finish)
    lap("originals, encoded and decoded")
    measured = evaluator.measure(images, latents)
    lap("metrics")
    measured.row()
    lap("means and intervals")
    return seconds


def _main(arguments: list[str]) -> None:
    seconds = measure(Path(arguments[0]) if arguments else ASSETS / "undistilled")
    total = sum(seconds.values())
    for part, value in seconds.items():
        print(f"{part:<32}{value:7.1f} s {100 * value / total:5.0f} %")
    print(f"{f'{COUNT:,} samples, {STEPS} steps':<32}{total:7.1f} s         (bar: {BAR} s)")


if __name__ == "__main__":
    sys.exit(run_command(_main))
