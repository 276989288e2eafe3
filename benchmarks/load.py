"""python -m benchmarks.load FOLDER: the time to load a UNet against the time to read its file, in one run.

FOLDER is a diffusers checkpoint (benchmarks.make_checkpoint makes one) whose UNet is in one file. Reading and loading
take turns in one process, with the file in the system's cache and without. The first round does not count, because
memory is slow at its first use on virtual machines. Memory is measured in another process, as the peak above the start.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from codi_tf.core.errors import UserError

WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"
TIME_BAR, MEMORY_BAR = 1.3, 1.15


def read(folder: Path) -> bytes:
    """Read the file into memory."""
    return (folder / WEIGHTS).read_bytes()


def load(folder: Path):
    """Load the UNet: everything from opening the folder to a network that can be called."""
    from codi_tf.checkpoints.kinds import UNET
    from codi_tf.checkpoints.networks import read_network

    return read_network(UNET, folder / "unet", name="unet")


def extra_memory(folder: Path) -> int:
    """Bytes that loading adds to this process at its peak, the network included."""
    _start()
    before = _memory("VmRSS")
    network = load(folder)
    extra = _memory("VmHWM") - before
    del network
    return extra


def seconds(folder: Path, cached: bool, rounds: int) -> dict[str, float]:
    """Median seconds of "read" and "load"."""
    _start()
    taken: dict[str, list[float]] = {"read": [], "load": []}
    for turn in range(1 + rounds):
        for name, run in (("read", read), ("load", load)):
            _put_into_cache(folder / WEIGHTS, cached)
            began = time.perf_counter()
            held = run(folder)
            if turn:
                taken[name].append(time.perf_counter() - began)
            del held
            gc.collect()
    return {name: statistics.median(values) for name, values in taken.items()}


def _start() -> None:
    """Do what is not part of loading: imports, and TensorFlow's setup at its first variable."""
    start_tensorflow()
    import keras

    import codi_tf.checkpoints.networks  # noqa: F401

    keras.layers.Dense(1).build((None, 1))


def _put_into_cache(path: Path, cached: bool) -> None:
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        block = bytearray(1 << 24)
        while cached and file.readinto(block):
            pass


def _memory(name: str) -> int:
    """A figure of this process in bytes: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.load", description="Loading against reading.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a diffusers checkpoint")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default: 5)")
    parser.add_argument("--memory", action="store_true", help="measure nothing but memory, and print bytes")
    options = parser.parse_args(arguments)
    path = options.folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: no such file; make the checkpoint with python -m benchmarks.make_checkpoint")
    if options.memory:
        print(extra_memory(options.folder))
        return
    os.sync()  # pages that are not on the disk yet stay in the cache
    command = [sys.executable, "-m", "benchmarks.load", str(options.folder), "--memory"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    size, extra = path.stat().st_size, int(done.stdout.splitlines()[-1])
    print(f"{path}: {size / 1e9:.2f} GB")
    print(f"memory {extra / size:5.3f} x the file (bar: {MEMORY_BAR})")
    for cached in (False, True):
        taken = seconds(options.folder, cached, options.rounds)
        print(
            f"{'cached' if cached else 'uncached':<9} read {taken['read']:6.2f} s  load {taken['load']:6.2f} s  "
            f"ratio {taken['load'] / taken['read']:5.2f} (bar: {TIME_BAR})"
        )


if __name__ == "__main__":
    sys.exit(run_command(_main))
