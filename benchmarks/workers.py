"""python -m benchmarks.workers: one worker with one core against two workers with one core each, in one run.

Every worker is `python -m codi_tf.train` in a process of its own, tied to a core, on the demo's networks; each has the
demo's batch, so that two do twice the work. Images a second are those that the run logs itself. Two cores may share
more than they show, memory for one: two trainings that know nothing of each other say what they can do at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from codi_tf.core.command_line import ArgumentParser, run_command
from codi_tf.core.errors import UserError

CONFIG = Path(__file__).parents[1] / "configs" / "photos_codi.yaml"
BATCH = 24  # images a step and worker, the demo's


def local_cluster(workers: int) -> list[str]:
    """TF_CONFIG of each of several workers on this machine, on ports that are free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    tasks = ({"type": "worker", "index": i} for i in range(workers))
    return [json.dumps({"cluster": {"worker": addresses}, "task": task}) for task in tasks]


def images_per_second(workers: int, steps: int, *, together: bool = True) -> float:
    """Of all workers, over the second half of the steps.

    Args:
        workers: processes, each on a core of its own, BATCH images a step each.
        steps: measured steps.
        together: one training; otherwise each has a training of its own, which is what the machine can do at most.
    """
    with tempfile.TemporaryDirectory() as folder:
        batch = workers * BATCH if together else BATCH
        options = [
            *("data.encode_once=480", f"train.batch_size={batch}", f"train.steps={2 * steps}"),
            *(f"train.log_every={steps}", "train.save_every=0", "train.sample_every=0", "train.warmup_steps=1"),
            *(("--strategy", "multiworker") if together and workers > 1 else ()),
        ]
        runs = [Path(folder, "run" if together else f"run{core}") for core in range(workers)]
        processes = [
            subprocess.Popen(
                [
                    "taskset",
                    "-c",
                    str(core),
                    sys.executable,
                    "-m",
                    "codi_tf.train",
                    CONFIG,
                    "--out",
                    runs[core],
                    *options,
                ],
                env={**os.environ, "TF_NUM_INTRAOP_THREADS": "1", "TF_CONFIG": cluster},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for core, cluster in enumerate(local_cluster(workers))
        ]
        for process in processes:
            _, said = process.communicate()
            if process.returncode:
                raise UserError(f"a worker failed: {said.decode().splitlines()[-1]}")
        last = ((run / "metrics.jsonl").read_text("utf-8").splitlines()[-1] for run in dict.fromkeys(runs))
        return sum(json.loads(line)["images_per_second"] for line in last)


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="measured steps (default: 30)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each, whose median counts (default: 3)")
    options = parser.parse_args(arguments)
    if len(os.sched_getaffinity(0)) < 2:
        raise UserError("this needs two cores")
    kinds = {"one": (1, True), "two": (2, True), "apart": (2, False)}
    turns = [
        [images_per_second(workers, options.steps, together=together) for workers, together in kinds.values()]
        for _ in range(options.rounds)
    ]
    one, two, apart = (statistics.median(values) for values in zip(*turns, strict=True))
    print(f"one worker, one core      {one:7.1f} images/s  {1e3 * BATCH / one:7.1f} ms a step")
    print(f"two workers, two cores    {two:7.1f} images/s  {2e3 * BATCH / two:7.1f} ms a step")
    print(f"two trainings, two cores  {apart:7.1f} images/s  {2e3 * BATCH / apart:7.1f} ms a step")
    print(f"two workers against one             {two / one:5.2f}   (bar: 1.6)")
    print(f"two trainings against one           {apart / one:5.2f}   what the machine's two cores can do")
    print(f"two workers against two trainings   {two / apart:5.2f}   the rest is the sum over the workers, and waiting")


if __name__ == "__main__":
    sys.exit(run_command(_main))
