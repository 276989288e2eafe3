"""python -m benchmarks.checkpointing: the cost of saving a state during training, in the background or waited for.

Blocks of updates of the demo's training take turns: without a state, with a state written in the background, and with a
state that the training waits for. The share of the run is that for the config's `save_every`.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path

from benchmarks.demo import CONFIG, trainer_and_batch
from benchmarks.timing import side_by_side
from codi_tf import config
from codi_tf.core.command_line import run_command, start_tensorflow

STEPS = 20  # of a block


def measure(folder: Path) -> tuple[dict[str, float], int]:
    """Median seconds of a block of each kind, and the bytes of a state."""
    start_tensorflow()
    import tensorflow as tf

    from codi_tf.training.states import StateWriter

    _, trainer, batch = trainer_and_batch()
    step, writer = tf.function(trainer.train_step, autograph=False), StateWriter(trainer, folder, keep=1)
    numbers = itertools.count(1)

    def block(save: bool, wait: bool) -> None:
        if save:
            writer.save(next(numbers))
        if wait:
            writer.wait()
        for _ in range(STEPS):
            float(step(batch)["loss"])
        writer.wait()  # unfinished writing counts

    kinds = {"none": (False, False), "in background": (True, False), "waited for": (True, True)}
    seconds = side_by_side({name: lambda kind=kind: block(*kind) for name, kind in kinds.items()}, rounds=7)
    return seconds, next(folder.glob("*.safetensors")).stat().st_size


def _main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seconds, size = measure(Path(folder))
    every = config.load(CONFIG).train.save_every
    run = every * seconds["none"] / STEPS
    print(f"a state of {size / 1e6:.0f} MB, every {every} steps of {1e3 * seconds['none'] / STEPS:.0f} ms")
    for name in ("in background", "waited for"):
        cost = seconds[name] - seconds["none"]
        print(f"{name:13}  {1e3 * cost:7.0f} ms a state  {100 * cost / run:5.2f} % of the run   (bar: 3 %)")


if __name__ == "__main__":
    sys.exit(run_command(_main))
