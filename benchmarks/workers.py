"""python -m benchmarks.workers: one worker with one core against two workers with one core each, in one run.

Every worker is a process `python -m codi_tf.train`, bound to a core, on the demo's networks. Each has the demo's batch,
so two workers do twice the work. Images per second are those that the run logs. Two cores share resources such as
memory, so two independent trainings give the most that they can do.
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
    """TF_CONFIG of each of several workers on this machine, on free ports."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    tasks = ({"type": "worker", "index": i} for i in range(workers))
    return [json.dumps({"cluster": {"worker": addresses}, "task": task}) for task in tasks]


def images_per_second(workers: int, steps: int, *, together: bool = True) -> float:
    """Images per second of all workers together, over the second half of the steps.

    Args:
        workers: the number of processes, each on its own core with BATCH images per step.
        steps: measured steps.
        together: whether they share one training; otherwise each trains by itself, the most that the machine can do.
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
            _, errors = process.communicate()
            if process.returncode:
                raise UserError(f"a worker failed: {errors.decode().splitlines()[-1]}")
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
