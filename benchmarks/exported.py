"""python -m benchmarks.exported unet|pipeline|small [BUNDLE]: exports against TensorFlow, diffusers and torch.onnx.

`unet`: one evaluation of Stable Diffusion 1.x's UNet at 512 px, random weights. `pipeline`: four steps with condition
and decoding, against diffusers' with a ControlNet. `small`: the sampler of a trained bundle in one graph, against its
parts called one by one. ONNX packages of float32 run in OpenVINO, too. Each candidate is written first and runs in
another process. They take turns, and the shortest time counts. With `--folder`, packages (as `full_export` writes them)
and seconds stay there, so that a run can be split (`--only`) and goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.worker import Worker
from codi_tf.core.arguments import integer
from codi_tf.core.command_line import ArgumentParser, run_command, start_tensorflow

ROUNDS = {"unet": 3, "pipeline": 2, "small": 5}
RUNS = {"unet": 3, "pipeline": 1, "small": 20}  # in a round, after one that warms up
PACKAGES = {  # of `pipeline`: names of `full_export`, and the runtimes beside their formats' own; None: that one
    "onnx/whole/float32": (None,),
    "onnx/whole/int8": (None,),
    "onnx/parts/float32/portable": ("openvino", "openvino:bfloat16"),
    "onnx/parts/w8a8/portable": ("openvino", "openvino:bfloat16"),
    "tflite/parts/int8": (None,),
    "onnx/whole/int8/small-decoder": (None,),
    "onnx/parts/float16/portable/small-decoder": ("openvino:bfloat16",),
    "tflite/parts/int8/small-decoder": (None,),
}
SECONDS = "seconds.json"


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


def _packages(folder: Path, only: list[str]) -> dict[str, tuple[str, str]]:
    from benchmarks.full_export import folder_of

    asked = [name for name in PACKAGES if not only or any(choice.partition(",")[0] == name for choice in only)]
    missing = [name for name in asked if not folder_of(folder, name).with_suffix(".json").exists()]
    if missing:
        command = [sys.executable, "-m", "benchmarks.full_export", str(folder), *missing, "--only", "write"]
        subprocess.run(command, check=True)
    theirs = {f"diffusers, {dtype}": ("generate_diffusers", dtype) for dtype in ("float32", "bfloat16")}
    ours = {
        name if runtime is None else f"{name}, {runtime}": ("package", f"{runtime or ''}={folder_of(folder, name)}")
        for name, runtimes in PACKAGES.items()
        for runtime in runtimes
    }
    return {**theirs, **ours, "TensorFlow": ("generate", "float32")}


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
    if what == "ours":
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


def _measure(what: str, candidates: dict[str, tuple[str, str]], only: list[str], rounds: int, folder: Path) -> None:
    notes = folder / SECONDS
    noted = json.loads(notes.read_text("utf-8")) if notes.exists() else {}
    for turn in range(rounds):
        for name in only or candidates:
            found = noted.setdefault(name, {"rounds": 0, "seconds": [], "peak": 0})
            if found["rounds"] > turn:
                continue
            worker = Worker(*candidates[name])
            try:
                worker()
                found["seconds"] += [worker() for _ in range(RUNS[what])]
                found["peak"] = max(found["peak"], worker.peak)
            finally:
                worker.close()
            found["rounds"] += 1
            notes.write_text(json.dumps(noted), encoding="utf-8")
            print(".", end="", file=sys.stderr, flush=True)
    rows = {name: noted[name] for name in candidates if noted.get(name, {"rounds": 0})["rounds"]}
    first = min(next(iter(rows.values()))["seconds"])
    print(f"\n{what}\n| | seconds | of the first | peak | rounds |\n|---|---:|---:|---:|---:|")
    for name, found in rows.items():
        taken, peak = min(found["seconds"]), found["peak"] / 2**30
        print(f"| {name} | {taken:.3f} | {taken / first:.2f} | {peak:.1f} GiB | {found['rounds']} |", flush=True)


def _main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.exported", description="Speed of exported models.")
    parser.add_argument("what", nargs="?", choices=list(ROUNDS))
    parser.add_argument("bundle", nargs="?", type=Path, help="of small: a trained one")
    parser.add_argument("--folder", type=Path, help="that keeps what is written and measured")
    parser.add_argument(
        "--rounds", type=integer(1, 100), help="in which candidates take turns, those in the folder included"
    )
    parser.add_argument("--only", nargs="+", default=[], help="some of the candidates")
    parser.add_argument("--write", nargs=2, help="used by the script itself")
    options = parser.parse_args(arguments)
    if options.write:
        return _write(options.write[0], Path(options.write[1]))
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        made = {
            "unet": _unets,
            "pipeline": lambda folder: _packages(folder, options.only),
            "small": lambda folder: _small(folder, options.bundle),
        }
        candidates, rounds = made[options.what](folder), options.rounds or ROUNDS[options.what]
        return _measure(options.what, candidates, options.only, rounds, folder)


if __name__ == "__main__":
    sys.exit(run_command(_main))
