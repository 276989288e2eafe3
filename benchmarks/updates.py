"""python -m benchmarks.updates CONFIG --before FOLDER: updates of two versions of this project, in turns, in one run.

FOLDER is another checkout, for example of `git worktree add FOLDER COMMIT`. Each version is a process of its own, with
this script and its own package. Both train the same config from the same weights on the same random latents; so their
losses show whether they learn the same. Without --before it is this version alone.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from pathlib import Path

from benchmarks.own_process import peak_memory

ROOT = Path(__file__).parents[1]


class Version:
    """A version of this project in a process, which makes one update each time it is called."""

    def __init__(self, folder: Path, config: str, overrides: list[str]):
        from benchmarks.worker import Process

        command = [sys.executable, "-P", __file__, "--worker", config, *overrides]
        self.process, self.updates = Process(command, PYTHONPATH=str(folder)), []

    def __call__(self) -> None:
        self.updates.append(self.process.answer())

    def median(self, key: str, after: int) -> float:
        """The median of a figure over the updates after the first ones."""
        return statistics.median(update[key] for update in self.updates[after:])


def _worker(config: str, *overrides: str) -> None:
    """Answers each line with the figures of one update."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    from codi_tf.core.command_line import start_tensorflow

    start_tensorflow()
    import tensorflow as tf

    # This version's script for both; the other one may lack it.
    script = importlib.util.spec_from_file_location("demo", Path(__file__).with_name("demo.py"))
    assert script is not None and script.loader is not None
    demo = importlib.util.module_from_spec(script)
    script.loader.exec_module(demo)
    settings, trainer, batch = demo.trainer_and_batch(config, overrides)
    update = tf.function(trainer.update, autograph=False)
    for _ in sys.stdin:
        began, processor = time.perf_counter(), time.process_time()
        logs = {name: float(value) for name, value in update(batch).items()}
        figures = {"seconds": time.perf_counter() - began, "processor": time.process_time() - processor, **logs}
        figures |= {
            "peak": peak_memory() / 2**30,
            "size": settings.train.batch_size,
        }
        print(json.dumps(figures), file=answers, flush=True)


def _main(arguments: list[str]) -> None:
    from codi_tf.core.arguments import integer, path_argument
    from codi_tf.core.command_line import ArgumentParser

    parser = ArgumentParser(prog="python -m benchmarks.updates", description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a file of configs/")
    parser.add_argument("--before", type=path_argument, help="a checkout of another commit")
    parser.add_argument("--updates", type=integer(4, 10_000), default=30, help="of each version (default: 30)")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="values in place of the config's")
    options = parser.parse_intermixed_args(arguments)
    folders = {"now": ROOT} if options.before is None else {"before": options.before.resolve(), "now": ROOT}
    versions = {name: Version(folder, options.config, options.overrides) for name, folder in folders.items()}
    for _ in range(options.updates):
        for version in versions.values():
            version()
    for version in versions.values():
        version.process.close()
    print("| | ms of the processor an update | ms an update | images/s | peak, GiB |\n|---|---:|---:|---:|---:|")
    for name, version in versions.items():
        processor, seconds = version.median("processor", 2), version.median("seconds", 2)
        size, peak = version.median("size", 0), version.updates[-1]["peak"]
        print(f"| {name} | {1e3 * processor:.0f} | {1e3 * seconds:.0f} | {size / seconds:.1f} | {peak:.2f} |")
    if len(versions) == 2:
        before, now = versions.values()
        for key in ("processor", "seconds"):
            print(f"{key}: before / now {before.median(key, 2) / now.median(key, 2):.2f}")
    print("\n| update | " + " | ".join(f"loss {name}" for name in versions) + " |\n|---:|" + "---:|" * len(versions))
    for i in range(options.updates):
        print(f"| {i + 1} | " + " | ".join(f"{v.updates[i]['loss']:.5f}" for v in versions.values()) + " |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _worker(*sys.argv[2:])
    else:
        from codi_tf.core.command_line import run_command

        sys.exit(run_command(_main))
