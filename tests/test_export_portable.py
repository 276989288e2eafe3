"""Portable ONNX: standard operators and static shapes, which other programs read, run and simplify."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import make_base, make_model
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization.shape_inference import quant_pre_process

import codi_tf
from codi_tf.core.noise import gaussian_noise
from export.build import write_package
from export.emit import sampler
from export.emit.program import SamplerProgram
from export.formats import FORMATS
from export.formats.form import PLAIN, Form
from export.formats.onnx import attention
from export.formats.onnx.graph import OnnxGraph, bodies
from export.formats.onnx.rounded import load_rounded
from export.parity.gate import ParityError
from export.quantization.weights import WeightFormats

pytest_plugins = ["export_cases"]
ASSETS = Path(__file__).parent.parent / "assets"
FORMS = {
    "loop": Form("portable"),
    "unrolled": Form("portable", unrolled=True),
    "opset 23": Form("portable", 23),
    "float16": Form("portable", compute="float16"),
    "float16, opset 23, unrolled": Form("portable", 23, "float16", unrolled=True),
}
EVERY = pytest.mark.parametrize("name", FORMS)
CLOSE = {"float32": 1e-5, "float16": 6e-3}  # of images; as far are the float16 of two programs from each other


def write(program, path: Path, form: Form, weights: str | None = None) -> Path:
    FORMATS["onnx"].writer(form)([program], sampler.whole, path, WeightFormats(weights or form.default_weights))
    return path


@pytest.fixture(scope="module")
def files(program, tmp_path_factory) -> dict[str, Path]:
    """The whole sampler in every form, and in the default one."""
    folder = tmp_path_factory.mktemp("portable")
    forms = {"default": PLAIN, **FORMS}
    return {name: write(program, folder / f"{i}.onnx", form) for i, (name, form) in enumerate(forms.items())}


def inputs() -> dict[str, np.ndarray]:
    condition = np.random.default_rng(0).random((1, 16, 16, 3), dtype=np.float32)
    return {"condition": condition, "noise": gaussian_noise(3, (1, 4, 4, 4))}


def image(path: Path) -> np.ndarray:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs())[0]


def graphs(path: Path) -> list[onnx.GraphProto]:
    graph = onnx.load(path).graph
    return [graph, *bodies(graph.node)]


@EVERY
def test_operators_are_the_standards_and_every_shape_is_in_the_file(files, name):
    """Catches an operator of one runtime, an empty input of the loop, and a tensor whose shape nobody can infer."""
    form, parts = FORMS[name], graphs(files[name])
    nodes = [node for part in parts for node in part.node]
    kinds = Counter(node.op_type for node in nodes)
    assert not any(node.domain for node in nodes)
    assert kinds["Loop"] == (not form.unrolled) and all(all(n.input) for n in nodes if n.op_type == "Loop")
    assert (kinds["Attention"] > 0, kinds["Softmax"] > 0) == ((True, False) if form.opset == 23 else (False, True))
    assert kinds["GroupNormalization"] and kinds["LayerNormalization"] and kinds["Gelu"]
    assert onnx.load(files[name]).opset_import[0].version == (form.opset or 21)
    named = {v.name: v.type.tensor_type for part in parts for v in (*part.value_info, *part.input, *part.output)}
    assert {output for node in nodes for output in node.output} <= named.keys()
    shapes = {key: [side.dim_value for side in kind.shape.dim] for key, kind in named.items()}
    assert all(kind.HasField("shape") for kind in named.values()) and not [k for k, v in shapes.items() if 0 in v]


@EVERY
def test_float16_is_where_it_should_be(files, name):
    """Catches islands that are lost: what sums, squares and exponentiates, z, and the embedding of the time."""
    types, takes = {}, {}
    for part in graphs(files[name]):
        types |= {v.name: v.type.tensor_type.elem_type for v in (*part.value_info, *part.input, *part.output)}
        types |= {tensor.name: tensor.data_type for tensor in part.initializer}
    for part in graphs(files[name]):
        for node in part.node:
            takes.setdefault(node.op_type, Counter())[onnx.TensorProto.DataType.Name(types[node.input[0]])] += 1
    wide = ("GroupNormalization", "InstanceNormalization", "LayerNormalization", "Softmax")
    assert all(set(takes.get(kind, {})) <= {"FLOAT"} for kind in wide)
    half = FORMS[name].in_half
    assert set(takes["Conv"]) == ({"FLOAT16"} if half else {"FLOAT"})
    assert takes["Gemm"]["FLOAT"] > 4 and (takes["Gemm"]["FLOAT16"] > 4) == half  # those of vectors, and of rows
    (graph, *loops) = graphs(files[name])
    assert all(types[body.output[1].name] == onnx.TensorProto.FLOAT for body in loops)


@EVERY
def test_the_image_is_that_of_the_default(files, name):
    """Catches a decomposition that computes something else."""
    off = np.abs(image(files[name]) - image(files["default"])).max()
    assert off < CLOSE[FORMS[name].compute]


@EVERY
def test_the_standards_reference_computes_the_same(files, name):
    """Catches what ONNX Runtime takes and the standard does not mean; of float16 it rounds every result, as we do."""
    ours = load_rounded(files[name], 1)(inputs())[0]["image"] if FORMS[name].in_half else image(files[name])
    theirs = ReferenceEvaluator(onnx.load(files[name])).run(None, inputs())[0]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=CLOSE[FORMS[name].compute])


@pytest.mark.parametrize("name", ["loop", "float16, opset 23, unrolled"])
def test_onnx_runtimes_own_preparation_takes_it(files, name, tmp_path):
    """Catches GroupNormalization in a loop. Its symbolic shapes take `Attention` for an older operator."""
    quant_pre_process(files[name], tmp_path / "made.onnx", skip_symbolic_shape=FORMS[name].opset == 23)
    np.testing.assert_allclose(image(tmp_path / "made.onnx"), image(files[name]), rtol=0, atol=CLOSE["float16"])


@pytest.mark.usefixtures("small_kernels_too")
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_narrow_weights_are_portable_too(program, tmp_path, weights):
    """Catches a product that only ONNX Runtime knows."""
    made = write(program, tmp_path / "made.onnx", Form("portable"), weights)
    assert not any(node.domain for part in graphs(made) for node in part.node)
    other = write(program, tmp_path / "other.onnx", PLAIN, weights)
    np.testing.assert_allclose(image(made), image(other), rtol=0, atol=0.02 if weights == "int8" else 1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("opset", [21, 23])
def test_attention_is_softmax(tmp_path, monkeypatch, causal, opset):
    """Catches strips of rows that see other keys than they should, and a scale that is left out."""
    monkeypatch.setattr(attention, "SCORES", 4 * 2 * 7 * 3)  # three rows of two heads and seven keys
    graph, path = OnnxGraph(form=Form("portable", opset)), tmp_path / "made.onnx"
    q, k, v = (graph.input(name, (7, 6)) for name in "qkv")
    graph.output("y", graph.attention(q, k, v, 2, causal=causal))
    graph.write(path)
    assert sum(node.op_type == "Softmax" for node in onnx.load(path).graph.node) == {21: 3, 23: 0}[opset]
    given = {name: np.random.default_rng(i).normal(size=(1, 7, 6)).astype("float32") for i, name in enumerate("qkv")}
    q, k, v = (given[name].reshape(7, 2, 3).transpose(1, 0, 2) for name in "qkv")
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(3) + causal * np.triu(np.full((7, 7), -np.inf), 1).clip(-1e9)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    expected = (shares / shares.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(1, 7, 6)
    made = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, given)[0]
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-5)


# --- packages


@pytest.mark.parametrize("layout", ["whole", pytest.param("parts", marks=pytest.mark.slow)])
def test_a_package_in_float16_passes_the_gate(program, tmp_path, layout):
    """Catches a form that is lost on the way to the manifest, and a gate that does not look at the numbers' range."""
    form = Form("portable", compute="float16")
    (figures,) = write_package([program], tmp_path / "out", format="onnx", layout=layout, form=form)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    named = {key: manifest.get(key) for key in ("profile", "compute", "weights", "opset", "unrolled")}
    wanted = {"profile": "portable", "compute": "float16", "weights": "float16", "opset": None, "unrolled": None}
    assert named == wanted
    assert figures["bounds"]["psnr"] == 45 and figures["psnr_db"] > 45 and figures["psnr_here_db"] > figures["psnr_db"]
    assert 1 < figures["largest_activation"]["value"] < 1000 and "/" in figures["largest_activation"]["node"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "onnx (portable, computes in float16)" in report and "float16 ends at 65504" in report


def test_activations_beyond_float16_are_refused(tmp_path):
    """Catches an overflow: this machine's runtime computes in float32 and does not have it, devices do."""
    model = make_model(make_base())
    kernel = model.base.vae.decoder.conv_in.kernel
    kernel.assign(1e6 * kernel.numpy())  # the last normalization takes it back
    program = SamplerProgram(model, steps=1, height=16, width=16)
    options = {"format": "onnx", "report": False}
    (figures,) = write_package([program], tmp_path / "float32", form=Form("portable"), **options)
    assert figures["psnr_db"] > 60
    with pytest.raises(ParityError, match="activations reach inf in sampler: vae/decoder/"):
        write_package([program], tmp_path / "out", form=Form("portable", compute="float16"), **options)
    assert not (tmp_path / "out").exists()


def test_rounding_is_that_of_float16(files):
    """Catches a runtime that leaves the casts out: without them, the error is that of the weights alone."""
    exact, here = image(files["default"]), image(files["float16"])
    rounded, largest = load_rounded(files["float16"], 1)(inputs())
    off, alone = (np.sqrt(np.mean(np.square(x - exact))) for x in (rounded["image"], here))
    assert 1.5 * alone < off < 20 * alone
    assert len(largest) > 400 and 1 < max(largest.values()) < 1000


# --- other programs


def simplified_by_onnxsim(path: Path, out: Path) -> np.ndarray:
    onnxsim = pytest.importorskip("onnxsim")
    onnx.save(onnxsim.simplify(onnx.load(path))[0], out)
    return image(out)


def slimmed_by_onnxslim(path: Path, out: Path) -> np.ndarray:
    onnxslim = pytest.importorskip("onnxslim")
    onnx.save(onnxslim.slim(onnx.load(path)), out)
    return image(out)


def run_by_openvino(path: Path, out: Path) -> np.ndarray:
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return next(iter(model(inputs()).values()))


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("other", [simplified_by_onnxsim, slimmed_by_onnxslim, run_by_openvino])
def test_others_make_the_same_image(files, name, other, tmp_path):
    """Catches what other programs refuse or misread: OpenVINO knows no GroupNormalization in a loop."""
    made = other(files[name], tmp_path / "other.onnx")
    np.testing.assert_allclose(made, image(files[name]), rtol=0, atol=CLOSE[FORMS[name].compute])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["loop", "float16", "float16, opset 23, unrolled"])
def test_a_trained_model_passes_the_gate(tmp_path, name):
    """Catches rounding that trained weights do not bear; random weights are smaller."""
    model = codi_tf.load(ASSETS / "photos-base" / "undistilled")
    program = SamplerProgram(model, steps=4, height=64, width=64)
    (figures,) = write_package([program], tmp_path / "out", format="onnx", form=FORMS[name], report=False)
    assert figures["psnr_db"] > (45 if FORMS[name].in_half else 80)
