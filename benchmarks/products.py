"""python -m benchmarks.products: int8 and int4 layers of Stable Diffusion's sizes against float32, in ONNX Runtime.

Each layer is in its own graph, as `export` writes it, on one thread. They take turns, and the shortest time counts. The
last column is ONNX Runtime's ConvInteger, which `export` does not use.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from codi_tf.models.layers import Conv2D
from export.formats.onnx.graph import OnnxGraph
from export.quantization.weights import WeightFormats

KINDS = ("float32", "int8", "int4")
CONVOLUTIONS = ((320, 320, 64), (640, 640, 32), (1280, 1280, 16), (2560, 1280, 16))  # channels, filters, side
PRODUCTS = ((4096, 320, 1280), (256, 1280, 1280))  # rows, channels, columns
TURNS = 8


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _written(layer, shape: tuple[int, ...], kind: str, folder: Path) -> onnxruntime.InferenceSession:
    g = OnnxGraph(WeightFormats(kind))
    x = g.input("x", shape)
    g.output("y", g.conv(x, layer) if len(shape) == 3 else g.dense(x, layer))
    g.write(folder / f"{kind}.onnx")
    return _session(folder / f"{kind}.onnx")


def _conv_integer(channels: int, filters: int, side: int, folder: Path) -> onnxruntime.InferenceSession:
    kernel = np.random.default_rng(0).integers(-127, 128, (filters, channels, 3, 3)).astype("int8")
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["numbers", "scale", "zero"]),
        helper.make_node("ConvInteger", ["numbers", "kernel", "zero"], ["sums"], pads=[1] * 4),
        helper.make_node("Cast", ["sums"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "scale"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, side, side])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, filters, side, side])
    graph = helper.make_graph(nodes, "conv", [x], [y], [numpy_helper.from_array(kernel, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "own.onnx")
    return _session(folder / "own.onnx")


def _measured(sessions: dict[str, onnxruntime.InferenceSession]) -> dict[str, float]:
    random, least = np.random.default_rng(0), dict.fromkeys(sessions, np.inf)
    inputs = {n: random.normal(size=s.get_inputs()[0].shape).astype("float32") for n, s in sessions.items()}
    for _ in range(TURNS):
        for name, session in sessions.items():
            began = time.perf_counter()
            session.run(None, {"x": inputs[name]})
            least[name] = min(least[name], time.perf_counter() - began)
    return least


def _row(name: str, seconds: dict[str, float]) -> str:
    full = seconds["float32"]
    cells = [f"{1000 * full:.1f} ms", *(f"{value / full:.2f}" for what, value in seconds.items() if what != "float32")]
    return f"| {name} | {' | '.join(cells)} |"


def _main() -> None:
    print("| | float32 | int8 / float32 | int4 / float32 | ConvInteger / float32 |\n|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for channels, filters, side in CONVOLUTIONS:
            layer = Conv2D(filters, 3, name="layer")
            layer.build((None, None, None, channels))
            sessions = {kind: _written(layer, (side, side, channels), kind, folder) for kind in KINDS}
            sessions["ConvInteger"] = _conv_integer(channels, filters, side, folder)
            print(_row(f"3 x 3, {channels} to {filters}, {side} x {side}", _measured(sessions)), flush=True)
        for rows, channels, columns in PRODUCTS:
            layer = keras.layers.Dense(columns, name="layer")
            layer.build((None, channels))
            sessions = {kind: _written(layer, (rows, channels), kind, folder) for kind in KINDS}
            print(f"{_row(f'{rows} x {channels} x {columns}', _measured(sessions))[:-1]}| |", flush=True)


if __name__ == "__main__":
    _main()
