"""python -m benchmarks.full_export [onnx/whole/float32 tflite/parts/int8 ...]: exports at Stable Diffusion's shapes.

UNet, mu adapter and autoencoder of Stable Diffusion 1.x with random weights, 512 px, four steps. Each export is
written, which is timed, run in the format's runtime in another process, and compared with Keras.
Prints one table; the model is made and run in Keras once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow
from export.formats import FORMATS
from export.package.manifest import check_options, read_package
from export.parity.measure import peak

EXPORTS = (
    *(f"onnx/whole/{weights}" for weights in ("float32", "float16", "int8", "int4")),
    *(f"tflite/parts/{weights}" for weights in ("float32", "float16", "int8")),
    "tflite/whole/int8",
)
COLUMNS = ("export", "written in", "peak of writing", "files", "loaded in", "an image", "peak of running", "PSNR")


def make_model(small_decoder: bool = False):
    """A CoDi model with random weights, mu included; with a small decoder in TAESD's shapes if wanted."""
    import numpy as np

    import codi_tf
    from codi_tf.checkpoints.base import Base, make_autoencoder, make_unet
    from codi_tf.checkpoints.compvis import SCHEDULER
    from codi_tf.models.tiny_decoder import TinyDecoder

    decoder = TinyDecoder() if small_decoder else None
    if small_decoder:
        decoder.build()
    scheduler = {**SCHEDULER, "prediction_type": "v_prediction"}
    base = Base(make_unet({}), make_autoencoder({}), scheduler, decoder=decoder)
    random = np.random.default_rng(0)
    conv = base.unet.conv_out.kernel  # it starts at 0
    conv.assign(random.normal(0, 0.01, conv.shape))
    model = codi_tf.CoDi(base, image_size=512)
    mu = model.student.adapter.mu
    mu.assign(random.uniform(0.2, 0.8, mu.shape))
    return model


def write(program, folder: Path, name: str) -> dict:
    """Write one export into a folder; return the seconds and the peak of memory, the model's memory included."""
    from export.build import write_graphs, write_manifest
    from export.quantization.weights import WeightFormats

    format, layout, weights = name.split("/")
    _forget_peak()
    began = time.perf_counter()
    facts = write_graphs([program], folder, format, layout, weights, WeightFormats(weights))
    seconds, held = time.perf_counter() - began, peak() / 2**30
    write_manifest(folder, facts, None)
    sizes = [f.stat().st_size / 1e6 for f in sorted(folder.iterdir()) if f.suffix != ".json"]
    return {"written": seconds, "write_peak": held, "sizes": sizes}


def run(folder: Path) -> None:
    """Load an export, generate two images, and print the figures as JSON."""
    import numpy as np

    from export.runtime.run import load

    expected = np.load(folder / "expected.npz")
    package = read_package(folder / "package")
    began = time.perf_counter()
    sampler = load(package)
    loaded, taken = time.perf_counter() - began, []
    for _ in range(2):
        began = time.perf_counter()
        image = sampler(expected["condition"], expected["noise"])
        taken.append(time.perf_counter() - began)
    error = np.square(image - expected["image"], dtype="f8").mean()
    figures = {
        "loaded": loaded,
        "seconds": min(taken),
        "peak": peak() / 2**30,
        "psnr": -10 * np.log10(max(error, 1e-20)),
    }
    print(json.dumps(figures))


def _forget_peak() -> None:
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5", encoding="ascii")


def _compare(names: list[str], steps: int) -> None:
    start_tensorflow()
    import numpy as np
    import tensorflow as tf

    from codi_tf.core.noise import gaussian_noise
    from export.emit.program import SamplerProgram

    model = make_model()
    program = SamplerProgram(model, steps=steps, height=512, width=512)
    weights = sum(4 * int(np.prod(v.shape)) for v in program.variables_in_use()) / 2**30
    condition = np.random.default_rng(1).random((1, 512, 512, 3), "float32")
    noise = gaussian_noise(0, program.latent_shape)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        image = (model.generate_step(tf.constant(2 * condition - 1), tf.constant(noise), steps).numpy() + 1) / 2
        seconds.append(time.perf_counter() - began)
    print(f"weights {weights:.2f} GiB; Keras: {min(seconds):.1f} s an image, of spread {image.std():.2f}\n", flush=True)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            np.savez(folder / "expected.npz", condition=condition, noise=noise, image=image)
            (folder / "package").mkdir()
            made = write(program, folder / "package", name)
            command = [sys.executable, "-m", "benchmarks.full_export", "--run", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"| {name} | does not run: {(done.stderr.splitlines() or [done.returncode])[-1]} |", flush=True)
                continue
            ran = json.loads(done.stdout.splitlines()[-1])
        sizes = " + ".join(f"{size:,.0f}" for size in made["sizes"] if size >= 1)
        print(
            f"| {name} | {made['written']:.1f} s | {made['write_peak']:.2f} GiB, {made['write_peak'] / weights:.2f} x "
            f"| {sizes} MB | {ran['loaded']:.1f} s | {ran['seconds']:.1f} s | {ran['peak']:.2f} GiB "
            f"| {ran['psnr']:.1f} dB |",
            flush=True,
        )


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.full_export", description="Full-size exports.")
    parser.add_argument("exports", nargs="*", default=EXPORTS, help="format/layout/weights (default: all)")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--run", type=Path, help="used by the script itself")
    options = parser.parse_args(arguments)
    if options.run:
        return run(options.run)
    for name in options.exports:
        format, layout, weights = (*name.split("/"), "", "")[:3]
        check_options(format, weights, layout or FORMATS[format].layouts[0])
    return _compare(options.exports, options.steps)


if __name__ == "__main__":
    sys.exit(run_command(_main))
