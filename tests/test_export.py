"""Export: real conversions in real runtimes; the gate refuses what differs from the Keras model."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import onnx as onnx_library
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper

import codi_tf
from codi_tf.errors import UserError
from codi_tf.noise import gaussian_noise
from codi_tf.weights import folder_sha256
from export import package, parity, tflite
from export.package import make_package, read_package, write_package
from export.program import SamplerProgram
from export.saved_model import OPTIONS

STEPS = 2
SIZES = {"saved_model": (16, 16), "tflite": (16, 24), "onnx": (16, 16)}  # height, width
EVERY = pytest.mark.parametrize("format", SIZES)


def exported(bundle: Path, format: str) -> Path:
    """The session's package of a format, in place of an older one, which holds a file of its own."""
    out = bundle.parent / f"package-{format}"
    if not out.exists():
        out.mkdir()
        (out / package.MANIFEST).write_text(json.dumps({"kind": package.KIND}))
        (out / "of-the-older-one.txt").write_text("")
        if format == "tflite":
            done = command(bundle, "--format", format, "--steps", STEPS, "--size", "16x24", "--out", out)
            (bundle.parent / "said.json").write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
        else:
            make_package(bundle, out, format=format, steps=STEPS, size=SIZES[format])
    return out


def command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "export", *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def model(bundle):
    return codi_tf.load(bundle)


@pytest.fixture(scope="module")
def program(model):
    return SamplerProgram(model, steps=1, height=16, width=16)


# --- what is exported


@EVERY
def test_artefact_equals_the_model_on_new_inputs(bundle, model, format):
    made = read_package(exported(bundle, format))
    condition = np.random.default_rng(7).random((1, *SIZES[format], 3), dtype=np.float32)
    noise = gaussian_noise(70, made.latent_shape)
    image = package.format_module(format).load(made.artefact)(condition, noise)
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
    assert manifest["bundle"] == {"name": "bundle", "sha256": folder_sha256(bundle)}
    assert manifest["made_with"]["tensorflow"] == tf.__version__ and manifest["made_with"]["keras"] == keras.__version__
    on_disk = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert manifest["files"].keys() == on_disk - {"manifest.json"}  # nothing of the older package is left
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest

    figures = json.loads((folder / "parity.json").read_text())
    assert figures["conditions"] == "held-out photos" and figures["cases"] == 8
    assert figures["finite"] and figures["max_error"] <= 1e-4 and figures["psnr_db"] > 80
    assert figures["condition_sensitivity"]["keras"] > 0.01
    used = (*model.network.variables, *model.base.vae.variables)
    assert figures["weight_bytes"] == sum(4 * int(np.prod(v.shape)) for v in used)


@EVERY
def test_weights_are_stored_once(bundle, model, format):
    made = read_package(exported(bundle, format))
    weights = sum(4 * int(np.prod(v.shape)) for v in (*model.network.variables, *model.base.vae.variables))
    stored = package.format_module(format).stored_bytes(made.artefact)
    assert 0.6 * weights < stored < 1.4 * weights  # the UNet alone, stored a second time, would make it 1.5
    assert stored < json.loads((made.folder / "parity.json").read_text())["file_bytes"]


def test_onnx_holds_every_kernel_once(bundle, model):
    graph = onnx_library.load(read_package(exported(bundle, "onnx")).artefact).graph
    held = Counter(_content(numpy_helper.to_array(tensor)) for tensor in graph.initializer)
    kernels = [v.numpy() for v in model.network.unet.variables if "conv" in v.path and v.path.endswith("kernel")]
    made = Counter(_content(v.numpy()) for v in model.network.variables)  # the duplicate may hold an equal one
    assert len(kernels) > 20
    assert [held[_content(kernel)] for kernel in kernels] == [made[_content(kernel)] for kernel in kernels]


def test_onnx_is_plain(bundle):
    made = onnx_library.load(read_package(exported(bundle, "onnx")).artefact)
    assert [v.name for v in made.graph.input] == ["condition", "noise"]
    assert [v.name for v in made.graph.output] == ["image"]
    assert {opset.domain: opset.version for opset in made.opset_import}[""] == 20
    assert {node.domain for node in made.graph.node} == {""}
    modes = {a.s for node in made.graph.node if node.op_type == "Resize" for a in node.attribute}
    assert b"asymmetric" in modes and b"tf_half_pixel_for_nn" not in modes


def test_tflite_has_built_in_operators_of_four_dimensions(bundle):
    file = read_package(exported(bundle, "tflite")).artefact
    operators = tflite.operators(file)
    assert operators["CONV_2D"] > 40
    assert not [name for name in operators if name.startswith("CUSTOM") or "VAR_HANDLE" in name]
    assert max(len(tensor["shape"]) for tensor in Interpreter(str(file)).get_tensor_details()) <= 4


@pytest.mark.parametrize("format, weights", [("onnx", "float16"), ("tflite", "int8")])
def test_smaller_weights_are_named_and_measured(bundle, tmp_path, format, weights):
    figures = make_package(bundle, tmp_path / "out", format=format, weights=weights, steps=1, size=(16, 16))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["weights"] == weights
    assert figures["psnr_db"] > figures["psnr_db_allowed"] > 30
    assert figures["stored_bytes"] < 0.8 * figures["weight_bytes"]


# --- the gate


class Blind(SamplerProgram):
    """A program that does not look at its condition."""

    def image(self, condition, noise):
        return super().image(tf.zeros_like(condition), noise)


def test_a_blind_artefact_is_refused_and_the_older_package_stays(bundle, model, tmp_path):
    out = tmp_path / "package"
    shutil.copytree(exported(bundle, "tflite"), out)
    before = folder_sha256(out)
    blind = Blind(model, steps=1, height=16, width=16)
    with pytest.raises(parity.ParityError, match=r"max error .* swapped conditions move its output by 0, the model's"):
        write_package(blind, out, format="saved_model")
    assert folder_sha256(out) == before and read_package(out).format == "tflite"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_lost_weights_are_refused(program, tmp_path):
    """The trap: of a module that tracks Keras' variables, not TensorFlow's, TFLite gets no weights, and no error."""
    module = tf.Module()
    module.weights = list(program.variables_in_use())
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=program.trace(), options=OPTIONS)
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert()
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(parity.ParityError, match=r"output is not finite; .* it stores [0-9],[0-9]{3} bytes of weights"):
        parity.check(program, tmp_path / "model.tflite", "tflite")


def test_a_file_that_the_runtime_does_not_load_is_refused(program, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(parity.ParityError, match="onnx: the runtime refuses the artefact"):
        parity.check(program, tmp_path / "model.onnx", "onnx")


def figures(expected, outputs, program, stored=None):
    weights = sum(v.numpy().nbytes for v in program.variables_in_use())
    return {**parity.compare(expected, outputs), **parity.weigh(program, weights if stored is None else stored)}


def images_that_move_by(change):
    """Two images and the same with another condition, which moves every value by `change`."""
    images = np.full((2, 4, 4, 3), 0.5, np.float32)
    return np.concatenate([images, images + np.float32(change)])


def test_figures_of_known_images(program):
    expected = images_that_move_by(0.1)
    outputs = expected.copy()
    outputs[0, 0, 0, 0] += 0.06
    found = parity.compare(expected, outputs)
    assert found["max_error"] == pytest.approx(0.06, abs=1e-6)
    assert found["psnr_db"] == pytest.approx(-10 * np.log10(0.06**2 / 192), abs=1e-3)
    assert found["condition_sensitivity"]["keras"] == pytest.approx(0.1, abs=1e-6)
    assert found["condition_sensitivity"]["artefact"] == pytest.approx(0.1 - 0.06 / 96, abs=1e-6)
    parity.refuse("onnx", figures(expected, expected, program))  # equal: nothing to refuse


def test_refuses_too_large_an_error(program):
    expected = images_that_move_by(0.1)
    parity.refuse("onnx", figures(expected, expected + np.float32(0.9e-3), program))
    with pytest.raises(parity.ParityError, match="max error 0.0011"):
        parity.refuse("onnx", figures(expected, expected + np.float32(1.1e-3), program))


def test_refuses_what_is_not_finite(program):
    outputs = images_that_move_by(0.1)
    outputs[1, 2, 3, 0] = np.nan
    with pytest.raises(parity.ParityError, match="not finite"):
        parity.refuse("onnx", figures(images_that_move_by(0.1), outputs, program))


def test_refuses_a_lost_condition_below_the_largest_error(program):
    """The image moves by less than the error that is allowed: only the sensitivity tells that the condition is lost."""
    with pytest.raises(parity.ParityError, match=r"nothing was written: swapped conditions move its output by 0, the"):
        parity.refuse("onnx", figures(images_that_move_by(5e-4), images_that_move_by(0), program))


def test_refuses_a_model_that_ignores_its_condition(program):
    still = images_that_move_by(0)
    with pytest.raises(parity.ParityError, match="the model ignores its condition"):
        parity.refuse("onnx", figures(still, still, program))


def test_refuses_missing_and_doubled_weights(program):
    images = images_that_move_by(0.1)
    weights = sum(v.numpy().nbytes for v in program.variables_in_use())
    for stored in (0, weights // 2, 2 * weights):
        with pytest.raises(parity.ParityError, match=f"stores {stored:,} bytes of weights, not"):
            parity.refuse("onnx", figures(images, images, program, stored))


# --- what cannot be exported


@pytest.mark.parametrize("height, width", [(12, 16), (16, 20), (0, 16)])
def test_sizes_that_the_networks_cannot_take(model, height, width):
    with pytest.raises(UserError, match=f"size is {height}x{width}: both sides must be positive multiples of 8"):
        SamplerProgram(model, steps=1, height=height, width=width)


def test_a_missing_converter_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "export.onnx", raising=False)
    monkeypatch.delitem(sys.modules, "export.onnx_graph", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="format onnx needs the package onnx: pip install onnx"):
        package.format_module("onnx")


def test_bad_input_ends_in_one_line(bundle, tmp_path):
    """On the command line, and before TensorFlow is loaded."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text('{"name": "a web page"}')
    out = tmp_path / "out"
    for arguments, complaint in {
        (bundle, "--format", "coreml", "--out", out): "format is 'coreml': use one of saved_model, tflite, onnx",
        (bundle, "--format", "onnx", "--out", out, "--steps", 0): "steps is 0: an exported sampler takes 1 to 16",
        (
            bundle,
            "--format",
            "onnx",
            "--out",
            out,
            "--weights",
            "int4",
        ): "weights is 'int4': onnx keeps them as float32, f",
        (bundle, "--format", "onnx", "--out", out, "--size", "big"): "--size is 'big': give one side, or HEIGHTxWIDTH",
        (tmp_path / "no", "--format", "onnx", "--out", out): f"{tmp_path / 'no'}: no bundle",
        (bundle, "--format", "onnx", "--out", tmp_path / "mine"): "exists and is no exported package",
        (bundle, "--format", "onnx", "--out", tmp_path / "mine/manifest.json/x"): "not a folder that can be written",
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
    assert [line.split(" ...")[0] for line in lines[:3]] == [
        f"loading {bundle}",
        "converting 2 steps at 16x24 to tflite",
        "comparing with the Keras model",
    ]
    assert lines[3].startswith("on 8 inputs from held-out photos: max error ") and len(lines) == 5
    assert stderr == ""


def _content(array: np.ndarray) -> bytes:
    return np.sort(array.astype("float32").ravel()).tobytes()
