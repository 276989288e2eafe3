"""python -m export.parity.measure PACKAGE [--size 64x96]: measure loading, generating an image, and peak memory.

The options of the runtime are those of `codi run`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from codi_tf.core.arguments import path_argument
from codi_tf.core.command_line import ArgumentParser, run_command
from codi_tf.core.noise import gaussian_noise
from export.package.manifest import parse_size, read_package
from export.runtime.choice import add_choice, choice_of, resolve
from export.runtime.run import load

RUNS, LONG = 3, 20.0  # runs at most; seconds after which no further one begins


def peak() -> int:
    """The peak memory of this process, in bytes."""
    try:  # on Linux, getrusage also counts the memory of the parent process
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(arguments: list[str]) -> None:
    """Measure a package and print the figures as one line of JSON. Raises UserError, see `read_package` and `load`."""
    parser = ArgumentParser(prog="python -m export.parity.measure", description=__doc__)
    parser.add_argument("package", type=path_argument, help="folder of an exported model")
    parser.add_argument("--size", help="one of the package's sizes, as 64x96 (default: its first)")
    add_choice(parser)
    options = parser.parse_args(arguments)
    package = read_package(options.package)
    if options.size is not None:
        package = package.at(*parse_size(options.size))
    shape = (1, package.height, package.width, package.channels)
    condition = np.full(shape, 0.5, np.float32) if package.channels else None
    noise = gaussian_noise(0, package.latent_shape)
    ids = np.zeros(77, np.int32) if package.prompted else None
    choice = choice_of(options)
    began = time.perf_counter()
    sampler = load(package, **choice._asdict())
    loaded, seconds = time.perf_counter() - began, []
    while len(seconds) < RUNS and sum(seconds) < LONG:
        began = time.perf_counter()
        sampler(condition, noise, ids)
        seconds.append(time.perf_counter() - began)
    threads = resolve(choice, package.format)[1].threads
    figures = {"load_seconds": loaded, "seconds": min(seconds), "peak_bytes": peak(), "threads": threads}
    print(json.dumps(figures))


if __name__ == "__main__":
    sys.exit(run_command(main))
