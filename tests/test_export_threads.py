"""Threads share a sampler, and a sampler takes the threads that it is given."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from commands import run_here
from export_cases import SIZES, exported
from PIL import Image

from codi_tf.core.noise import gaussian_noise
from export.formats import threads
from export.package.manifest import read_package
from export.runtime import run
from export.runtime.choice import Choice
from export.runtime.sampler import load_any

SHARED = 4  # threads of the caller
CALLS = 15  # of each of them: the unlocked interpreter gave garbage in the first few


@pytest.mark.parametrize(("format", "runtime"), [*((format, None) for format in SIZES), ("onnx", "openvino")])
def test_threads_share_a_sampler(bundle, format, runtime):
    """Catches an interpreter, or a request, that holds the tensors of one call for all threads."""
    if runtime is not None:
        pytest.importorskip("openvino")
    package = read_package(exported(bundle, format))
    sampler = load_any(package, Choice(runtime))
    random = np.random.default_rng(0)
    cases = [
        (random.random((1, *SIZES[format], 3), dtype=np.float32), gaussian_noise(i, package.latent_shape))
        for i in range(SHARED)
    ]
    alone, begin = [sampler(*case) for case in cases], threading.Barrier(SHARED)

    def work(i: int) -> float:
        begin.wait()
        return max(float(np.abs(sampler(*cases[i]) - alone[i]).max()) for _ in range(CALLS))

    with ThreadPoolExecutor(SHARED) as pool:
        assert max(pool.map(work, range(SHARED))) < 1e-6


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_the_image_does_not_depend_on_the_number_of_threads(bundle, tmp_path, format):
    """Catches sums that threads divide; also an option that does not arrive."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)).save(tmp_path / "in.png")
    images = []
    for count in (1, 3):
        out = tmp_path / f"{count}.png"
        options = ["--condition", tmp_path / "in.png", "--out", out, "--threads", count]
        done = run_here(run.main, exported(bundle, format), *options)
        assert done.returncode == 0, done.stderr
        images.append(out.read_bytes())
    assert images[0] == images[1]


@pytest.mark.parametrize("count", ["0", "-1", "2000"])
def test_a_number_of_threads_out_of_range_is_refused(bundle, tmp_path, count):
    Image.new("RGB", (16, 16)).save(tmp_path / "in.png")
    options = ["--condition", tmp_path / "in.png", "--out", tmp_path / "out.png", "--threads", count]
    done = run_here(run.main, exported(bundle, "onnx"), *options)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --threads is {count}: it must be a whole number from 1 to 1024; see python -m export.run --help\n"
    )


def test_as_many_threads_as_there_are_processors_for_this_process(tmp_path, monkeypatch):
    """Catches a default that counts the machine's processors, which a container may not have."""
    monkeypatch.setattr(threads, "QUOTAS", ())
    available = len(os.sched_getaffinity(0))
    assert threads.default_threads() == available and threads.default_threads(1) == 1
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(threads, "QUOTAS", ((str(quota),),))
    for text, count in (("max 100000", available), ("50000 100000", 1), ("100000 100000", 1), ("-1 100000", available)):
        quota.write_text(text + "\n")
        assert threads.default_threads() == count


RUN = """
import sys
from pathlib import Path
import numpy as np
from export.package.manifest import read_package
from export.runtime.sampler import load_any

package = read_package(Path(sys.argv[1]))
condition = np.zeros((1, package.height, package.width, 3), "float32")
print(load_any(package)(condition, np.zeros(package.latent_shape, "float32")).shape)
"""


def test_litert_writes_no_line_of_its_own(bundle):
    """Catches LiteRT's note about its delegate, which it writes once in a process, past Python."""
    command = [sys.executable, "-c", RUN, exported(bundle, "tflite")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(1, 16, 24, 3)\n", "")
