"""Calibrated weights: ranges from the sampler's own steps, graphs of whole numbers, and what stays float."""

from __future__ import annotations

import collections
import functools
import operator
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from commands import run_here

from codi_tf.core.errors import UserError
from codi_tf.diffusion.sampling import trajectory
from codi_tf.models.layers import Conv2D, Dense
from export import __main__ as export
from export.build import make_package, write_package
from export.calibration import IMAGES, calibrate
from export.emit import sampler
from export.emit.conditions import calibration_inputs
from export.formats import FORMATS
from export.formats.form import PORTABLE, Form
from export.formats.onnx import Onnx
from export.formats.onnx.calibrated import Rounding
from export.formats.onnx.graph import OnnxGraph
from export.formats.tflite.graph import LiteRtGraph
from export.formats.tflite.write import operators
from export.package.manifest import read_manifest
from export.quantization.activations import CALIBRATED, Calibrated, Place, Range, parameters
from export.quantization.sensitivity import MARGIN, decibels, floats, most
from export.quantization.weights import WeightFormats, int8_scales, quantize_int8

pytest_plugins = ["export_cases"]


@pytest.mark.parametrize("kind", CALIBRATED.values())
@pytest.mark.parametrize("numbers", [Range(-1.0, 3.0), Range(0.5, 2.0), Range(-3.0, -1.0), Range(0.0, 0.0)])
def test_a_range_becomes_whole_numbers(kind, numbers):
    """Catches a zero that is not exact, with which a convolution pads, and a range whose ends are cut off."""
    scale, zero = parameters(numbers, kind)
    most_of_it = np.iinfo(kind).max
    assert scale > 0 and 0 <= zero <= most_of_it
    for x in (*numbers, 0.0):
        whole = np.rint(x / scale) + zero
        assert -1 <= whole <= most_of_it + 1  # cut off by less than a step
        assert abs((np.clip(whole, 0, most_of_it) - zero) * scale - x) <= scale


def test_steps_share_a_range_where_they_share_a_graph():
    """Catches a graph of one step that is rounded by the first step's range alone."""
    found = {Place("k", i, "in"): Range(-i, i + 1.0) for i in range(3)}
    apart, shared = (Calibrated("w8a8", found, each_step=each) for each in (True, False))
    assert [apart.range_of(place) for place in found] == list(found.values())
    assert {shared.range_of(place) for place in found} == {Range(-2.0, 3.0)}


def test_the_largest_number_that_is_enough():
    for count in range(5):
        assert most(4, functools.partial(operator.ge, count)) == count


def test_the_kernels_that_cost_most_stay_float():
    """Catches an order by name, a search that stops early, and rounding that costs nothing but is left out."""
    costs = {"a": 1e-5, "b": 1e-3, "c": 1e-6, "d": 1e-4}

    def error(kernels):
        return sum(costs[kernel] for kernel in kernels)

    assert floats(list(costs), error, decibels(2e-3) - MARGIN) == frozenset()
    assert floats(list(costs), error, decibels(5e-4) - MARGIN) == {"b"}
    assert floats(list(costs), error, decibels(5e-5) - MARGIN) == {"b", "d"}
    with pytest.raises(UserError, match="calibration: with any one kernel rounded, images miss 70 dB"):
        floats(list(costs), error, 70.0)


def run(path, inputs):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # as in `Onnx.load`
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))


def whole_numbers(x, numbers, dtype):
    """x rounded by a range, as int64 around the zero point, and its scale."""
    scale, zero = parameters(numbers, dtype)
    return np.clip(np.rint(x / scale) + zero, 0, np.iinfo(dtype).max).astype("int64") - zero, scale


@pytest.mark.parametrize("kind", CALIBRATED)
def test_a_product_is_one_of_whole_numbers(kind, tmp_path):
    """Catches scales of the wrong axis, a kernel that is not rounded, and a range of the wrong side."""
    random, dense = np.random.default_rng(0), Dense(48)
    dense.build((None, 32))
    dense.kernel.assign(random.normal(size=(32, 48)).astype("f") * np.linspace(0.1, 9, 48, dtype="f"))
    dense.bias.assign(random.normal(size=48).astype("f"))
    x, path = random.normal(size=(1, 7, 32)).astype("f"), dense.kernel.path
    ranges = {Place(path, 0, "in"): Range(-1.5, 2.0), Place(path, 0, "out"): Range(-40.0, 35.0)}
    formats = Calibrated(kind, ranges)
    graph = OnnxGraph(formats, calibrating=Rounding(formats))
    graph.output("y", graph.dense(graph.input("x", (7, 32)), dense))
    graph.write(tmp_path / "model.onnx")
    rows, scale = whole_numbers(x[0], ranges[Place(path, 0, "in")], CALIBRATED[kind])
    kernel = dense.kernel.numpy()
    product = (rows @ quantize_int8(kernel).astype("int64")) * (scale * int8_scales(kernel))
    out, step = whole_numbers(product, ranges[Place(path, 0, "out")], CALIBRATED[kind])
    expected = out * step + dense.bias.numpy()
    made = run(tmp_path / "model.onnx", {"x": x})["y"][0]
    np.testing.assert_allclose(made, expected, rtol=0, atol=1.01 * step)  # a sum in floats may round the other way
    assert np.mean(np.abs(made - expected) > 0.01 * step) < {"w8a8": 0.02, "w8a16": 0.2}[kind]
    assert np.abs(made - (x[0] @ kernel + dense.bias.numpy())).max() > 2 * step  # and it is rounded


@pytest.mark.parametrize("kind", CALIBRATED)
def test_litert_products_are_of_whole_numbers(kind, tmp_path):
    """Catches a bias in other scales than the products', a lost bias of a channel without weights, a shifted zero."""
    random, conv, dense = np.random.default_rng(0), Conv2D(16, 3), Dense(48)
    conv.build((None, 6, 8, 32)), dense.build((None, 32))
    kernel = random.normal(size=(3, 3, 32, 16)).astype("f")
    kernel[..., 3] = 0.0
    conv.kernel.assign(kernel), conv.bias.assign(random.normal(size=16).astype("f"))
    dense.kernel.assign(random.normal(size=(32, 48)).astype("f")), dense.bias.assign(random.normal(size=48).astype("f"))
    x = random.uniform(-1.5, 2.0, size=(1, 6, 8, 32)).astype("f")
    expected = {"conv": np.asarray(conv(x))[0], "dense": np.asarray(dense(x[0, :, 0]))}
    ranges = {}
    for name, layer in (("conv", conv), ("dense", dense)):
        ranges[Place(layer.kernel.path, 0, "in")] = Range(-1.5, 2.0)
        ends = np.min(expected[name]) - 3, np.max(expected[name]) + 3
        ranges[Place(layer.kernel.path, 0, "out")] = Range(*map(float, ends))
    graph = LiteRtGraph(Calibrated(kind, ranges))
    graph.output("conv", graph.conv(graph.input("map", (6, 8, 32)), conv))
    graph.output("dense", graph.dense(graph.input("rows", (6, 32)), dense))
    graph.write(tmp_path / "model.tflite")
    made = Interpreter(str(tmp_path / "model.tflite")).get_signature_runner()(map=x, rows=x[:, :, 0])
    for name in expected:
        off = np.sqrt(np.mean((made[name][0] - expected[name]) ** 2)) / np.std(expected[name])
        assert 1e-4 < off < {"w8a8": 0.02, "w8a16": 0.01}[kind]
    np.testing.assert_allclose(made["conv"][0][..., 3], conv.bias.numpy()[3], atol=0.5)
    kinds = operators(tmp_path / "model.tflite")
    assert kinds["QUANTIZE"] == kinds["DEQUANTIZE"] == 2


def test_ranges_are_those_of_the_steps(program, small_kernels_too):
    """The first convolution of the UNet takes z_t: its ranges are those of Keras' own trajectory, step by step."""
    inputs = calibration_inputs(program, "photos")[:7]
    assert {name: x.shape for name, x in inputs[0].items()} == {"condition": (1, 16, 16, 3), "noise": (1, 4, 4, 4)}
    formats = calibrate([program], "w8a8", [inputs], each_step=True, psnr=5.0)
    expected = [[], []]
    for picture in inputs[IMAGES:]:
        _, c = program.encoded(keras.ops.convert_to_tensor(picture["condition"]))
        z = picture["noise"]
        for i, (_, z_next) in enumerate(trajectory(program.denoiser(c, program.conditioning()), z, program.grid)):
            expected[i].append(np.asarray(z))
            z = z_next
    path = program.model.network.unet.conv_in.kernel.path
    for i, z in enumerate(expected):
        found = formats.range_of(Place(path, i, "in"))
        np.testing.assert_allclose(found, (np.min(z), np.max(z)), rtol=0, atol=1e-4)


def test_litert_packages_pass_the_gate(program, tmp_path, small_kernels_too):
    """Catches a use of a kernel that takes the range of another, and products that stay float."""
    options = {"format": "tflite", "layout": "whole", "weights": "w8a16", "report": False}
    (figures,) = write_package([program], tmp_path / "package", **options, calibration="photos")
    assert figures["psnr_db"] > figures["bounds"]["psnr"]
    kinds = sum(map(operators, (tmp_path / "package").glob("*.tflite")), collections.Counter())
    assert kinds["DEQUANTIZE"] > 40 and kinds["QUANTIZE"] > 20


def test_packages_pass_the_gate(program, tmp_path, small_kernels_too):
    """Catches an export that rounds nothing, and a step that is rounded by the range of another."""
    out, kind = tmp_path / "package", "w8a16"
    options = {"format": "onnx", "layout": "parts", "weights": kind, "report": False}
    (figures,) = write_package([program], out, **options, calibration="photos")
    assert figures["psnr_db"] > figures["bounds"]["psnr"] == 42
    manifest = read_manifest(out)
    assert manifest["weights"] == kind and manifest["calibration"]["source"] == "photos"
    nodes = [node for file in out.glob("*.onnx") for node in onnx.load(file).graph.node]
    count = collections.Counter(node.op_type for node in nodes)
    assert count["QuantizeLinear"] > 40
    stored = [tensor for file in out.glob("*.onnx") for tensor in onnx.load(file).graph.initializer]
    zeros = {tensor.data_type for tensor in stored if not tensor.dims} - {onnx.TensorProto.FLOAT}
    assert zeros == {getattr(onnx.TensorProto, CALIBRATED[kind].upper())}
    # Catches kernels of int8, whose products overflow without VNNI.
    assert onnx.TensorProto.INT8 not in {tensor.data_type for tensor in stored}


def test_onnx_runtime_computes_with_whole_numbers(program, tmp_path, small_kernels_too):
    """Catches pairs at places where the runtime does not fuse them: the graph would be right, and slower than float."""
    inputs = calibration_inputs(program, "photos")[:5]
    formats = calibrate([program], "w8a8", [inputs], each_step=True, psnr=5.0)
    FORMATS["onnx"].write([program], sampler.whole, tmp_path / "model.onnx", formats)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    given, made = (
        collections.Counter(node.op_type for node in onnx.load(tmp_path / name).graph.node)
        for name in ("model.onnx", "optimized.onnx")
    )
    dequantized_kernels = {
        node.output[0] for node in onnx.load(tmp_path / "model.onnx").graph.node if node.op_type == "DequantizeLinear"
    }
    rounded = collections.Counter(
        node.op_type
        for node in onnx.load(tmp_path / "model.onnx").graph.node
        if node.op_type in ("Conv", "MatMul") and node.input[1] in dequantized_kernels
    )
    assert rounded["Conv"] > 20 and rounded["MatMul"] > 10 and given["Gemm"] == 0
    assert made["QLinearConv"] == rounded["Conv"] and made["QLinearMatMul"] == rounded["MatMul"]


@pytest.mark.slow
@pytest.mark.parametrize("profile", Onnx.profiles)
def test_openvino_reads_the_pairs(program, tmp_path, small_kernels_too, profile):
    """Catches a product that OpenVINO does not compile when it is rounded, as a Gemm with its bias."""
    openvino = pytest.importorskip("openvino")
    inputs = calibration_inputs(program, "photos")[:6]
    formats = calibrate([program], "w8a8", [inputs], each_step=True, psnr=5.0)
    Onnx.writer(Form(profile))([program], sampler.whole, tmp_path / "model.onnx", formats)
    model = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for picture in inputs:
        made, expected = model(picture)["image"], run(tmp_path / "model.onnx", picture)["image"]
        assert decibels(float(np.mean(np.square(made - expected)))) > 35
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert (onnx.TensorProto.INT8 in types) == (profile == PORTABLE)


def test_a_psnr_keeps_kernels_float(program, tmp_path, small_kernels_too):
    """Catches a PSNR that other pictures miss, one that is met by keeping everything, and a loop of steps."""
    *inputs, other = calibration_inputs(program, "photos")[:13]
    images = {}
    for psnr in (None, 5.0, 44.0):
        options = {"each_step": True, "psnr": psnr}
        formats = WeightFormats() if psnr is None else calibrate([program], "w8a8", [inputs], **options)
        assert 0 < len(formats.exceptions) < 40 if psnr == 44.0 else not formats.exceptions
        assert set(formats.exceptions.values()) <= {"float16"}
        FORMATS["onnx"].write([program], sampler.whole, tmp_path / "model.onnx", formats)
        assert psnr is None or "Loop" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
        images[psnr] = run(tmp_path / "model.onnx", other)["image"]
    off = {psnr: decibels(float(np.mean(np.square(images[psnr] - images[None])))) for psnr in (5.0, 44.0)}
    assert 30 < off[5.0] < off[44.0] and off[44.0] > 43


@pytest.mark.parametrize(
    "options, said",
    [
        ("w8a8", "--weights w8a8 needs --calibration: images as the model will see them, a folder"),
        ("w8a16 --calibration=", "--weights w8a16 needs --calibration: images"),
        ("int8 --calibration photos", "--calibration is 'photos': it is for --weights w8a8, w8a16; leave it out"),
        ("w8a8 --calibration photos --target-size 1MB", "--target-size is for mixed weights; w8a8 takes --min-psnr"),
        ("w8a8 --calibration nowhere", "nowhere"),
    ],
)
def test_bad_calibrations_are_refused_in_one_line(bundle, tmp_path, options, said):
    done = run_here(export.main, bundle, "--format", "onnx", "--out", tmp_path / "out", "--weights", *options.split())
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


TRAINED = Path("assets/photos-base/undistilled")


@pytest.mark.slow
@pytest.mark.parametrize("kind", CALIBRATED)
@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("layout", ["whole", "parts"])
def test_a_trained_model_passes_the_gate(tmp_path, kind, format, layout):
    """Catches ranges or an order of kernels that do for random weights alone, and a condition that is lost in noise."""
    options = {"format": format, "layout": layout, "weights": kind, "calibration": "photos", "report": False}
    (figures,) = make_package(TRAINED, tmp_path / "package", **options)
    assert figures["psnr_db"] >= {"w8a8": 35, "w8a16": 42}[kind]
