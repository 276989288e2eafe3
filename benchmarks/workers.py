"""python -m benchmarks.workers: one worker with one core against two workers with one core each, in one run.

Every worker is `python -m codi_tf.train` in a process of its own, tied to a core, on the demo's networks; each has the
demo's batch, so that two do twice the work. Images a second are those that the run logs itself. What a step takes
longer with two workers than with one is the sum over the workers, and waiting for the slower one.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from codi_tf.cli import ArgumentParser, run_command
from codi_tf.errors import UserError

CONFIG = Path(__file__).parents[1] / "configs" / "photos_codi.yaml"


def local_cluster(workers: int) -> list[str]:
    """TF_CONFIG of each of several workers on this machine, on ports that are free."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    tasks = ({"type": "worker", "index": i} for i in range(workers))
    return [json.dumps({"cluster": {"worker": addresses}, "task": task}) for task in tasks]


def images_per_second(workers: int, batch_size: int, steps: int) -> float:
    """Of all workers together, over the second half of the steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "codi_tf.train", CONFIG, "--out", f"{folder}/run"),
            *("data.encode_once=480", f"train.batch_size={workers * batch_size}", f"train.steps={2 * steps}"),
            *(f"train.log_every={steps}", "train.save_every=0", "train.sample_every=0", "train.warmup_steps=1"),
            *(("--strategy", "multiworker") if workers > 1 else ()),
        ]
        processes = [
            subprocess.Popen(
                ["taskset", "-c", str(core), *map(str, command)],
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
        *_, last = Path(folder, "run", "metrics.jsonl").read_text("utf-8").splitlines()
        return json.loads(last)["images_per_second"]


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--steps", type=int, default=60, help="measured steps")
    options = parser.parse_args(arguments)
    if len(os.sched_getaffinity(0)) < 2:
        raise UserError("this needs two cores")
    one, two = (images_per_second(workers, 24, options.steps) for workers in (1, 2))
    print(f"one worker, one core    {one:7.1f} images/s  {24 / one * 1e3:7.1f} ms a step")
    print(f"two workers, two cores  {two:7.1f} images/s  {48 / two * 1e3:7.1f} ms a step")
    print(f"two against one         {two / one:7.2f}             (bar: 1.6)")
    print(f"share of a step that is not one worker's work: {1 - two / one / 2:.2f}")


if __name__ == "__main__":
    sys.exit(run_command(_main))
