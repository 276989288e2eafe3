"""python -m benchmarks.exported unet|pipeline|small [BUNDLE]: exports against TensorFlow, diffusers and torch.onnx.

`unet`: one evaluation of Stable Diffusion 1.x's UNet at 512 px, random weights. `pipeline`: four steps with condition
and decoding, against diffusers' with a ControlNet. `small`: the sampler of a trained bundle in one graph, against its
parts called one by one. ONNX packages of float32 run in OpenVINO, too. Each candidate is written first and runs in
another process. They take turns, and the shortest time counts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.worker import Worker
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow

ROUNDS = {"unet": 3, "pipeline": 2, "small": 5}
RUNS = {"unet": 3, "pipeline": 1, "small": 20}  # in a round, after one that warms up
PACKAGES = ("onnx/whole/float32", "onnx/whole/int8", "tflite/parts/int8")  # the last two with a small decoder, too


def _unets(folder: Path) -> dict[str, tuple[str, str]]:
    """Name -> (function of `candidates`, its argument); writes the files that are missing."""
    for what in ("ours", "theirs"):
        subprocess.run([sys.executable, "-m", "benchmarks.exported", "--write", what, str(folder)], check=True)
    return {
        "TensorFlow": ("unet", "float32"),
        "onnx float32": ("onnx_graph", str(folder / "float32.onnx")),
        "onnx int8": ("onnx_graph", str(folder / "int8.onnx")),
        "litert int8": ("litert_graph", str(folder / "int8.tflite")),
        "diffusers by torch.onnx": ("onnx_graph", str(folder / "torch.onnx")),
        "diffusers": ("unet_diffusers", "float32"),
    }


def _packages(folder: Path) -> dict[str, tuple[str, str]]:
    subprocess.run([sys.executable, "-m", "benchmarks.exported", "--write", "packages", str(folder)], check=True)
    theirs = {f"diffusers, {dtype}": ("generate_diffusers", dtype) for dtype in ("float32", "bfloat16")}
    made = {path.name.replace("-", "/"): ("package", str(path)) for path in sorted(folder.iterdir())}
    return {**theirs, **made, **_in_openvino(made), "TensorFlow": ("generate", "float32")}


def _in_openvino(made: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The ONNX packages among the candidates whose names do not say int8, in OpenVINO."""
    return {
        f"{name}, {runtime}": (function, f"{runtime}={folder}")
        for name, (function, folder) in made.items()
        for runtime in ("openvino", "openvino:bfloat16")
        if name.startswith("onnx") and "int8" not in name
    }


def _small(folder: Path, bundle: Path) -> dict[str, tuple[str, str]]:
    from export.build import make_package

    chosen = {}
    for format in ("onnx", "tflite"):
        for layout in ("parts", "whole"):
            made = folder / f"{format}-{layout}"
            make_package(bundle, made, format=format, layout=layout)
            chosen[f"{format}, {layout}"] = ("package", str(made))
    return {**chosen, **_in_openvino(chosen)}


def _write(what: str, folder: Path) -> None:
    start_tensorflow()
    if what == "packages":
        from benchmarks.full_export import make_model, write
        from export.emit.program import SamplerProgram

        for small in (False, True):
            program = SamplerProgram(make_model(small), steps=4, height=512, width=512)
            for name in PACKAGES[small:]:
                made = folder / (name.replace("/", "-") + ("-small decoder" if small else ""))
                made.mkdir()
                write(program, made, name)
    elif what == "ours":
        _write_unets(folder)
    else:
        _write_theirs(folder / "torch.onnx")


def _write_unets(folder: Path) -> None:
    from benchmarks.candidates import SIDE
    from codi_tf.adapters.adapted import AdaptedUNet
    from codi_tf.checkpoints.base import make_unet
    from export.emit import adapted
    from export.formats.onnx import graph as onnx_graph
    from export.formats.tflite import graph as litert_graph
    from export.quantization.weights import WeightFormats

    net = AdaptedUNet(make_unet({}))
    for kind, graph in (
        ("float32", onnx_graph.OnnxGraph),
        ("int8", onnx_graph.OnnxGraph),
        ("int8", litert_graph.LiteRtGraph),
    ):
        g = graph(WeightFormats(kind))
        z, time, context = g.input("z", (SIDE, SIDE, 4)), g.input("time", (320,)), g.input("context", (77, 768))
        g.output("out", adapted.evaluation(g, net, z, time, [], context))
        g.write(folder / f"{kind}.{'onnx' if graph is onnx_graph.OnnxGraph else 'tflite'}")


def _write_theirs(path: Path) -> None:
    import benchmarks.torchvision_operators  # noqa: F401  (before anything imports torchvision)

    # isort: split
    import torch
    from diffusers import UNet2DConditionModel

    network = UNet2DConditionModel(cross_attention_dim=768).eval()
    inputs = torch.zeros(1, 4, 64, 64), torch.tensor([500]), torch.zeros(1, 77, 768)
    torch.onnx.export(network, inputs, str(path), dynamo=True, external_data=True, verbose=False)


def _measure(what: str, candidates: dict[str, tuple[str, str]]) -> None:
    seconds, peaks = {name: [] for name in candidates}, {}
    for _ in range(ROUNDS[what]):
        for name, candidate in candidates.items():
            worker = Worker(*candidate)
            try:
                worker()
                seconds[name] += [worker() for _ in range(RUNS[what])]
                peaks[name] = worker.peak
            finally:
                worker.close()
            print(".", end="", file=sys.stderr, flush=True)
    first = min(next(iter(seconds.values())))
    print(f"\n{what}\n| | seconds | of the first | peak |\n|---|---:|---:|---:|")
    for name, taken in seconds.items():
        print(f"| {name} | {min(taken):.3f} | {min(taken) / first:.2f} | {peaks[name] / 2**30:.1f} GiB |", flush=True)


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.exported", description="Speed of exported models.")
    parser.add_argument("what", nargs="?", choices=list(ROUNDS))
    parser.add_argument("bundle", nargs="?", type=Path, help="of small: a trained one")
    parser.add_argument("--write", nargs=2, help="used by the script itself")
    options = parser.parse_args(arguments)
    if options.write:
        return _write(options.write[0], Path(options.write[1]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = {"unet": _unets, "pipeline": _packages, "small": lambda folder: _small(folder, options.bundle)}
        return _measure(options.what, made[options.what](folder))


if __name__ == "__main__":
    sys.exit(run_command(_main))
