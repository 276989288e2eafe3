"""python -m benchmarks.full_export FORMAT [WEIGHTS]: Stable Diffusion 1.x's true shapes as one exported sampler.

UNet, mu adapter and autoencoder with random weights, 512 px: written by `export`, with the seconds and the peak of
memory that takes; then run in the format's own runtime, in a process of its own, and compared with Keras.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from codi_tf.cli import ArgumentParser, run_command, start_tensorflow
from export.package import ARTEFACTS, check_format, check_weights, format_module


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def make_model():
    """A CoDi model whose weights are random, mu included."""
    import numpy as np

    import codi_tf
    from codi_tf.base import Base, make_autoencoder, make_unet
    from codi_tf.convert.compvis import SCHEDULER

    base = Base(make_unet({}), make_autoencoder({}), {**SCHEDULER, "prediction_type": "v_prediction"})
    random = np.random.default_rng(0)
    conv = base.unet.conv_out.kernel  # it starts at 0
    conv.assign(random.normal(0, 0.01, conv.shape))
    model = codi_tf.CoDi(base, image_size=512)
    mu = model.student.adapter.mu
    mu.assign(random.uniform(0.2, 0.8, mu.shape))
    return model


def write(folder: Path, format: str, weights: str, steps: int) -> None:
    """The artefact, its inputs and Keras' picture."""
    start_tensorflow()
    import numpy as np
    import tensorflow as tf

    from codi_tf.noise import gaussian_noise
    from export.program import SamplerProgram

    model = make_model()
    size = sum(4 * np.prod(v.shape) for v in (*model.network.variables, *model.base.vae.variables)) / 2**30
    before, began = _peak(), time.perf_counter()
    program = SamplerProgram(model, steps=steps, height=512, width=512)
    format_module(format).write(program, folder / ARTEFACTS[format], weights)
    seconds, peak = time.perf_counter() - began, _peak()
    files = [round(path.stat().st_size / 1e6) for path in sorted(folder.iterdir())]
    print(f"weights {size:.2f} GiB, with the model {before:.2f} GiB; written in {seconds:.1f} s, peak {peak:.2f} GiB")
    print(f"peak against the bytes of the weights {peak / size:.2f}   files of {files} MB", flush=True)
    condition = np.random.default_rng(1).random((1, 512, 512, 3), "float32")
    noise = gaussian_noise(0, program.latent_shape)
    picture = model.generate_step(tf.constant(2 * condition - 1), tf.constant(noise), steps)
    np.savez(folder / "expected.npz", condition=condition, noise=noise, image=(picture.numpy() + 1) / 2)


def run(folder: Path, format: str) -> None:
    """Load the artefact and run it twice."""
    import numpy as np

    from export.run import RUNTIMES

    expected = np.load(folder / "expected.npz")
    began = time.perf_counter()
    sampler = RUNTIMES[format](folder / ARTEFACTS[format])
    loaded, taken = time.perf_counter() - began, []
    for _ in range(2):
        began = time.perf_counter()
        image = sampler(expected["condition"], expected["noise"])
        taken.append(time.perf_counter() - began)
    error = np.abs(image - expected["image"])
    decibels = -10 * np.log10(max(float(np.mean(error.astype("f8") ** 2)), 1e-20))
    print(f"loaded in {loaded:.1f} s, pictures in {', '.join(f'{t:.1f}' for t in taken)} s, peak {_peak():.2f} GiB")
    print(f"against Keras: max error {error.max():.1e}, PSNR {decibels:.1f} dB, spread {expected['image'].std():.2f}")


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.full_export", description="Full-size exports.")
    parser.add_argument("format", choices=["onnx", "tflite"])
    parser.add_argument("weights", nargs="?", default="float32")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--part", help="used by the script itself")
    options = parser.parse_args(arguments)
    check_format(options.format)
    check_weights(options.format, options.weights)
    if options.part:
        kind, folder = json.loads(options.part)
        if kind == "write":
            return write(Path(folder), options.format, options.weights, options.steps)
        return run(Path(folder), options.format)
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("write", "run"):
            part = ["--part", json.dumps([kind, folder])]
            subprocess.run([sys.executable, "-m", "benchmarks.full_export", *arguments, *part], check=True)
    return None


if __name__ == "__main__":
    sys.exit(run_command(_main))
