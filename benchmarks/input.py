"""python -m benchmarks.input [CONFIG ...]: how long a training step waits for its batch.

For each config (default: photos_real_world.yaml), with examples made in every step and with examples encoded once,
prints the share of the loop that is spent in next(batches), after the first steps, and the time of the step. The two
take turns. A loop that never waits spends only the time to hand over a finished batch. Also prints the processor time
of a batch without training, which a step loses if no core is free.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from codi_tf import config
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow

CONFIGS = Path(__file__).parents[1] / "configs"
WARM_UP = 5  # steps
TURN = 5  # steps
ALONE = 20  # batches without a step


def loops(path: Path) -> dict[str, tuple[Callable[[], tuple[float, float]], float]]:
    """Name -> (a training step as `codi_tf.train` runs it, the processor time of a batch without training).

    The names are "every step" and "encoded once". A step returns (seconds in next(batches), seconds after it).
    """
    import tensorflow as tf

    from codi_tf.training.experiment import build_dataset, build_trainer

    def loop(settings: config.Experiment) -> tuple[Callable[[], tuple[float, float]], float]:
        trainer = build_trainer(settings)
        batches = iter(build_dataset(settings, trainer, 0))
        for _ in range(WARM_UP):
            next(batches)
        began = time.process_time()
        for _ in range(ALONE):
            next(batches)
        alone = (time.process_time() - began) / ALONE
        step = tf.function(trainer.train_step, autograph=False)

        def run() -> tuple[float, float]:
            began = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter()
            float(step(batch)["loss"])
            return waited - began, time.perf_counter() - waited

        return run, alone

    once = config.load(path)
    if not once.data.encode_once:
        return {"every step": loop(once)}
    batch_size = once.train.batch_size
    return {
        "every step": loop(config.load(path, ["data.encode_once=0"])),
        "encoded once": loop(
            config.load(path, [f"data.encode_once={4 * batch_size}"])
        ),  # the time does not depend on their number
    }


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.input", description="How long training waits for its input.")
    parser.add_argument("configs", nargs="*", type=Path, default=[CONFIGS / "photos_real_world.yaml"])
    parser.add_argument("--rounds", type=int, default=6, help=f"turns of {TURN} steps that count (default: 6)")
    options = parser.parse_args(arguments)
    start_tensorflow()
    for path in options.configs:
        candidates = loops(path)
        for run, _ in candidates.values():
            for _ in range(WARM_UP):
                run()
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
        for _ in range(options.rounds):
            for name, (run, _) in candidates.items():
                run()  # takes the batches that were prepared during the other one's turn
                run()
                taken[name] += [run() for _ in range(TURN)]
        for name, pairs in taken.items():
            waits, steps = zip(*pairs, strict=True)
            share = sum(waits) / (sum(waits) + sum(steps))
            wait, step = 1e3 * statistics.median(waits), 1e3 * statistics.median(steps)
            columns = f"waits {wait:6.1f} ms   step {step:7.1f} ms   share {100 * share:5.1f} %"
            print(f"{path.stem:<20}{name:<14}{columns}   a batch alone {1e3 * candidates[name][1]:6.1f} ms of a core")


if __name__ == "__main__":
    sys.exit(run_command(_main))
