"""python -m benchmarks.workers: one worker with one core against two workers with one core each, in turns.

Every worker is a process, bound to a core, that trains the demo's networks on random latents. Each has the demo's
batch, so two workers do twice the work. Two cores share memory and caches, so two trainings that know nothing of each
other give the most that they can do. The processes start once and wait for their turns: a machine that slows down slows
down all. Besides the time, every update has its processor time, in the program and in the system, and its page faults.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.demo import trainer_and_batch
from benchmarks.worker import Process
from codi_tf import config
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError

CANDIDATES = {
    "one": "one worker, one core",
    "two": "two workers, two cores",
    "arenas": "the same, an arena for each thread",
    "apart": "two trainings, two cores",
}
FIGURES = ("ms", "program", "system", "faults")


def local_cluster(workers: int) -> list[str]:
    """TF_CONFIG of each of several workers on this machine, on free ports."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    tasks = ({"type": "worker", "index": i} for i in range(workers))
    return [json.dumps({"cluster": {"worker": addresses}, "task": task}) for task in tasks]


def member(strategy_name: str, updates: int) -> None:
    """One worker: trains for `updates` updates at every line that it reads, and answers with FIGURES of one of them."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    from codi_tf.training.distribution import make_strategy

    strategy = start_tensorflow(lambda: make_strategy(config.Distribution(strategy=strategy_name)))
    import tensorflow as tf

    from codi_tf.training.loop import make_loop

    with strategy.scope():
        settings, trainer, batch = trainer_and_batch()
    batch = {name: tf.constant(value.numpy()) for name, value in batch.items()}

    def of_host(_):
        return tf.data.Dataset.from_tensors(batch).repeat().prefetch(2)

    batches, run = iter(strategy.distribute_datasets_from_function(of_host)), make_loop(trainer, strategy)

    def measured(count: int) -> dict[str, float]:
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        float(run(batches, tf.constant(count), tf.constant(0))["loss"])
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
        spent = [1e3 * seconds, 1e3 * (after.ru_utime - before.ru_utime), 1e3 * (after.ru_stime - before.ru_stime)]
        values = (*spent, after.ru_minflt - before.ru_minflt)
        return {"batch": settings.train.batch_size} | {
            name: value / count for name, value in zip(FIGURES, values, strict=True)
        }

    measured(1)  # traces
    for _ in sys.stdin:
        print(json.dumps(measured(updates)), file=answers, flush=True)


def together(processes: list[Process]) -> list[dict]:
    """What each of them answers, when all work at once."""
    with ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(Process.answer, processes))


def measure(updates: int, rounds: int) -> dict[str, list[list[dict]]]:
    """The answers of each round, by the names of CANDIDATES."""

    def start(core: int, strategy: str, **variables: str) -> Process:
        command = ["taskset", "-c", str(core), sys.executable, "-m", "benchmarks.workers", "--member", strategy]
        return Process([*command, "--steps", str(updates)], TF_NUM_INTRAOP_THREADS="1", **variables)

    def pair(**variables: str) -> list[Process]:
        return [start(i, "multiworker", TF_CONFIG=one, **variables) for i, one in enumerate(local_cluster(2))]

    apart = [start(core, "none") for core in range(2)]
    kinds = (apart[:1], pair(), pair(MALLOC_ARENA_MAX="8"), apart)
    candidates = dict(zip(CANDIDATES, kinds, strict=True))
    try:
        for processes in kinds[1:]:
            together(processes)  # the first updates are slower
        turns = [{name: together(processes) for name, processes in candidates.items()} for _ in range(rounds)]
    finally:
        ends = [process for processes in kinds[1:] for process in processes]
        with ThreadPoolExecutor(len(ends)) as pool:  # at once: a worker may wait for the other
            list(pool.map(Process.close, ends))
    return {name: [turn[name] for turn in turns] for name in candidates}


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--steps", type=int, default=12, help="updates of each turn (default: 12)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each, whose median counts (default: 9)")
    parser.add_argument("--member", metavar="STRATEGY", help="be one of the workers (for this script itself)")
    options = parser.parse_args(arguments)
    if options.member:
        member(options.member, options.steps)
        return
    if len(os.sched_getaffinity(0)) < 2:
        raise UserError("this needs two cores")
    found = measure(options.steps, options.rounds)
    print(f"{'':38s}{'images/s':>9s}" + "".join(f"{name:>10s}" for name in FIGURES) + "   of an update")
    rates = {}
    for key, turns in found.items():
        rates[key] = statistics.median(sum(1e3 * one["batch"] / one["ms"] for one in turn) for turn in turns)
        of_update = [statistics.median(one[name] for turn in turns for one in turn) for name in FIGURES]
        print(f"{CANDIDATES[key]:38s}{rates[key]:9.1f}" + "".join(f"{value:10.1f}" for value in of_update))
    print(f"two workers against one             {rates['two'] / rates['one']:5.2f}   (bar: 1.6)")
    print(f"the same, an arena for each thread  {rates['arenas'] / rates['one']:5.2f}   see core/allocation.py")
    print(f"two trainings against one           {rates['apart'] / rates['one']:5.2f}   what the two cores can do")
    print(f"two workers against two trainings   {rates['two'] / rates['apart']:5.2f}   the rest: the sum, and waiting")


if __name__ == "__main__":
    sys.exit(run_command(_main))
