"""Export: real conversions in real runtimes; what packages hold, and one-line errors."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import onnx as onnx_library
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from export_cases import SIZES, STEPS, command, exported
from onnx import numpy_helper

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io.folders import MARKER
from codi_tf.io.hashing import folder_sha256
from export.build import write_package
from export.emit.program import SamplerProgram
from export.formats import FORMATS
from export.formats.onnx import graph as onnx_graph
from export.formats.tflite import write as tflite
from export.package.manifest import read_package
from export.runtime.sampler import load_any

EVERY = pytest.mark.parametrize("format", SIZES)


def artefact(folder: Path) -> Path:
    """The one graph of a package of the whole sampler."""
    (graph,) = read_package(folder).graphs.values()
    return graph.path


@pytest.fixture(scope="module")
def model(bundle):
    return codi_tf.load(bundle)


# --- what is exported


@EVERY
def test_artefact_equals_the_model_on_new_inputs(bundle, model, format):
    made = read_package(exported(bundle, format))
    condition = np.random.default_rng(7).random((1, *SIZES[format], 3), dtype=np.float32)
    noise = gaussian_noise(70, made.latent_shape)
    image = load_any(made)(condition, noise)
    latents = model.sample_latents(model.base.encode(2 * condition - 1), noise, steps=STEPS)
    expected = np.clip((model.base.decode(latents).numpy() + 1) / 2, 0, 1)
    assert image.shape == condition.shape and image.dtype == np.float32
    assert expected.std() > 0.05
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-4)


@EVERY
def test_manifest_and_figures(bundle, model, format):
    folder = exported(bundle, format)
    height, width = SIZES[format]
    manifest = json.loads((folder / "manifest.json").read_text())
    image = {"shape": [1, height, width, 3], "dtype": "float32", "range": [0, 1], "layout": "NHWC, RGB"}
    assert manifest["format"] == format and manifest["steps"] == STEPS and manifest["image_size"] == [height, width]
    assert manifest["inputs"]["condition"] == manifest["outputs"]["image"] == image
    assert manifest["inputs"]["noise"]["shape"] == [1, height // 4, width // 4, 4]
    assert manifest["task"]["name"] == "super_resolution" and manifest["task"]["scale"] == 4
    assert manifest["scheduler"]["prediction_type"] == "v_prediction"
    assert manifest["bundle"] == {"name": "bundle", "sha256": folder_sha256(bundle), "license": None}
    assert manifest["made_with"]["tensorflow"] == tf.__version__ and manifest["made_with"]["keras"] == keras.__version__
    on_disk = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert manifest["files"].keys() == on_disk - {"manifest.json", MARKER}  # nothing of the older package is left
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest

    figures = json.loads((folder / "report.json").read_text())["parity"]
    assert figures["conditions"] == "held-out photos" and figures["cases"] == 8
    assert figures["finite"] and figures["max_error"] <= 1e-4 and figures["psnr_db"] > 80
    assert figures["condition_sensitivity"]["keras"] > 0.01
    used = (*model.network.variables, *model.base.vae.variables)
    assert figures["weight_bytes"] == sum(4 * int(np.prod(v.shape)) for v in used)


@EVERY
def test_weights_are_stored_once(bundle, model, format):
    weights = sum(4 * int(np.prod(v.shape)) for v in (*model.network.variables, *model.base.vae.variables))
    stored = FORMATS[format].stored_bytes(artefact(exported(bundle, format)))
    assert 0.6 * weights < stored < 1.4 * weights  # the UNet alone, stored a second time, would make it 1.5
    report = json.loads((exported(bundle, format) / "report.json").read_text())
    assert stored < report["file_bytes"]["sampler"]


def test_a_saved_model_lies_as_tensorflow_serving_wants_it(bundle):
    """NAME/VERSION/saved_model.pb, the signature of its default name, inputs and outputs by ours."""
    folder = artefact(exported(bundle, "saved_model"))
    assert folder.relative_to(exported(bundle, "saved_model")).as_posix() == "model/1"
    assert (folder / "saved_model.pb").is_file()
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    assert signature.structured_input_signature[1].keys() == {"condition", "noise"}
    assert signature.structured_outputs.keys() == {"image"}


def test_onnx_holds_every_kernel_once(bundle, model):
    graph = onnx_library.load(artefact(exported(bundle, "onnx"))).graph
    tensors = [*graph.initializer, *(tensor for body in onnx_graph.bodies(graph.node) for tensor in body.initializer)]
    held = Counter(_content(numpy_helper.to_array(tensor)) for tensor in tensors)
    kernels = [v.numpy() for v in model.network.unet.variables if "conv" in v.path and v.path.endswith("kernel")]
    made = Counter(_content(v.numpy()) for v in model.network.variables)  # the duplicate may hold an equal one
    assert len(kernels) > 20
    assert [held[_content(kernel)] for kernel in kernels] == [made[_content(kernel)] for kernel in kernels]


def test_onnx_is_plain(bundle):
    made = onnx_library.load(artefact(exported(bundle, "onnx")))
    assert [v.name for v in made.graph.input] == ["condition", "noise"]
    assert [v.name for v in made.graph.output] == ["image"]
    assert {opset.domain: opset.version for opset in made.opset_import}[""] == 21
    nodes = [*made.graph.node, *(node for body in onnx_graph.bodies(made.graph.node) for node in body.node)]
    assert {node.op_type for node in nodes if node.domain} == {"MultiHeadAttention"}
    modes = {a.s for node in nodes if node.op_type == "Resize" for a in node.attribute}
    assert b"asymmetric" in modes and b"tf_half_pixel_for_nn" not in modes


def test_tflite_has_built_in_operators_of_four_dimensions(bundle):
    file = artefact(exported(bundle, "tflite"))
    operators = tflite.operators(file)
    assert operators["CONV_2D"] > 40
    assert not [name for name in operators if name.startswith("CUSTOM") or "VAR_HANDLE" in name]
    assert max(len(tensor["shape"]) for tensor in Interpreter(str(file)).get_tensor_details()) <= 4


@pytest.mark.parametrize(
    "format, weights", [(f, w) for f in ("onnx", "tflite") for w in FORMATS[f].weight_formats if w != "float32"]
)
def test_smaller_weights_pass_the_gate_in_parts(model, tmp_path, format, weights):
    program = SamplerProgram(model, steps=2, height=16, width=16)
    (figures,) = write_package([program], tmp_path / "out", format=format, layout="parts", weights=weights)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["weights"] == weights and [step["t"] for step in manifest["schedule"]] == [999, 499]
    assert figures["psnr_db"] > figures["bounds"]["psnr"] >= 25
    assert figures["part_errors"].keys() == manifest["graphs"].keys() == {"encoder", "step", "decoder"}
    assert all(0 < error < figures["bounds"]["part"] for error in figures["part_errors"].values())
    share = 0.5 if weights.startswith("int8") else 0.7  # the tiny model has kernels that are too small for four bits
    assert figures["stored_bytes"] < share * figures["weight_bytes"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["here"]["seconds"] > 0 and 2**25 < report["here"]["peak_bytes"] < 2**30
    parameters = sum(part["parameters"] for part in report["parts"].values())
    assert parameters >= figures["weight_bytes"] // 4  # mu is in two of the parts


def test_a_step_that_is_too_large_for_a_file_comes_in_halves(model, tmp_path, monkeypatch):
    """The limit is set just below the UNet's bytes: both halves, and nothing else, take the place of the step."""
    unet = sum(v.numpy().nbytes for v in model.network.unet.variables)
    monkeypatch.setattr(FORMATS["tflite"], "max_graph", unet - 1)
    program = SamplerProgram(model, steps=2, height=16, width=16)
    (figures,) = write_package([program], tmp_path / "out", format="tflite", layout="parts")
    made = read_package(tmp_path / "out")
    assert list(made.graphs) == ["encoder", "step_1", "step_2", "decoder"]
    assert figures["psnr_db"] > 80 and figures["part_errors"]["step"] < 1e-5
    halves = [tflite.stored_bytes(made.graphs[name].path) for name in ("step_1", "step_2")]
    assert unet <= sum(halves) < unet + 10_000 and min(halves) > unet / 4


# --- what cannot be exported


@pytest.mark.parametrize("height, width", [(12, 16), (16, 20), (0, 16)])
def test_sizes_that_the_networks_cannot_take(model, height, width):
    with pytest.raises(UserError, match=f"size is {height}x{width}: both sides must be positive multiples of 8"):
        SamplerProgram(model, steps=1, height=height, width=width)


def test_a_missing_converter_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="format onnx needs the package onnx: pip install onnx"):
        FORMATS["onnx"].check_installed()


def test_bad_input_ends_in_one_line(bundle, tmp_path):
    """On the command line, and before TensorFlow is loaded."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text('{"name": "a web page"}')
    out = tmp_path / "out"
    for arguments, complaint in {
        (bundle, "--format", "coreml", "--out", out): "unknown format 'coreml': known are onnx, saved_model, tflite",
        (
            bundle,
            "--format",
            "onnx",
            "--out",
            out,
            "--steps",
            0,
        ): "--steps is 0: it must be a whole number from 1 to",
        (
            bundle,
            "--format",
            "onnx",
            "--out",
            out,
            "--weights",
            "int2",
        ): "weights is 'int2': onnx stores them as float32, ",
        (bundle, "--format", "onnx", "--out", out, "--weights", "mixed"): "weights is 'mixed': give --target-size",
        (bundle, "--format", "onnx", "--out", out, "--min-psnr", 30): "need --weights mixed; leave them out",
        (bundle, "--format", "onnx", "--out", out, "--target-size", "7"): "--target-size is '7': give a number and MB",
        (bundle, "--format", "saved_model", "--out", out, "--layout", "parts"): "layout is 'parts': saved_model offe",
        (bundle, "--out", out): "--format is missing: use one of onnx, saved_model, tflite",
        (bundle, "--out", out, "--adapter-of", tmp_path): f"{tmp_path}: no exported package; make one with",
        (
            bundle,
            "--format",
            "onnx",
            "--out",
            out,
            "--sampler",
            "ddimm",
        ): "unknown sampler 'ddimm': did you mean 'ddim'?",
        (bundle, "--format", "onnx", "--out", out, "--size", "big"): "--size is 'big': give one side, or HEIGHTxWIDTH",
        (tmp_path / "no", "--format", "onnx", "--out", out): f"{tmp_path / 'no'}: no bundle",
        (bundle, "--format", "onnx", "--out", tmp_path / "mine"): "exists and is no exported package",
        (bundle, "--format", "onnx", "--out", tmp_path / "mine/manifest.json/x"): "nothing can be written into",
    }.items():
        done = command(*arguments)
        assert done.returncode == 2, done
        assert done.stderr.startswith("error: ") and complaint in done.stderr and done.stderr.count("\n") == 1
        assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_command_line_says_what_it_does_and_no_more(bundle):
    exported(bundle, "tflite")
    status, stdout, stderr = json.loads((bundle.parent / "said.json").read_text())
    assert status == 0, stderr
    lines = stdout.splitlines()
    assert [line.split(" ...")[0] for line in lines[:4]] == [
        f"loading {bundle}",
        "converting 2 steps at 16x24 to tflite",
        "comparing with the Keras model",
        "measuring",
    ]
    assert lines[4].startswith("16x24: on 8 inputs from held-out photos: max error ") and len(lines) == 6
    assert stderr == ""


def _content(array: np.ndarray) -> bytes:
    return np.sort(array.astype("float32").ravel()).tobytes()
