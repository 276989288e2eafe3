"""Graphs of a package on another processor: in a process that qemu-user runs.

`make setup` installs qemu-user. Nothing else can show on this machine what an older processor computes.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.package.manifest import Package

QEMU = shutil.which(f"qemu-{os.uname().machine}") if os.uname().machine == "x86_64" else None
SINCE_2013 = "Haswell-v4"  # AVX2; neither VNNI nor AVX-512
needs_qemu = pytest.mark.skipif(
    QEMU is None, reason="needs qemu-x86_64, the package qemu-user, on an x86-64 machine: make setup installs it"
)

# Reads calls from standard input and writes their results to standard output.
SERVER = """
import pickle, sys
from pathlib import Path
from export.package.manifest import read_package
from export.runtime.sampler import load_any

sampler = load_any(read_package(Path(sys.argv[1])))
while True:
    part, inputs = pickle.load(sys.stdin.buffer)
    made = sampler(*inputs) if part is None else sampler.run(part, inputs)
    pickle.dump(made, sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


class EmulatedSampler:
    """What the parity gate uses of `export.runtime.sampler.Sampler`, on an emulated processor."""

    def __init__(self, package: Package, processor: str = SINCE_2013):
        command = [QEMU, "-cpu", processor, sys.executable, "-c", SERVER, str(package.folder)]
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, **pipes)

    def __call__(self, condition: np.ndarray, noise: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
        return self._call(None, (condition, noise, ids))

    def run(self, part: str, pool: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._call(part, pool)

    def _call(self, part, inputs):
        pickle.dump((part, inputs), self._process.stdin)
        self._process.stdin.flush()
        try:
            return pickle.load(self._process.stdout)
        except EOFError:
            raise RuntimeError(self._process.communicate()[1].decode(errors="replace")) from None

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
