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
from commands import run_here
from onnx import numpy_helper

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from codi_tf.io.hashing import folder_sha256
from export import __main__ as export
from export.build import make_package, write_package
from export.emit.program import SamplerProgram
from export.formats import FORMATS
from export.formats.format import GraphFile
from export.formats.onnx import graph as onnx_graph
from export.formats.saved_model.write import OPTIONS
from export.formats.tflite import write as tflite
from export.package import manifest as package
from export.package.manifest import read_package
from export.parity import gate as parity
from export.quantization.weights import WeightFormats
from export.runtime.sampler import load_any

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
            make_package(bundle, out, format=format, steps=STEPS, sizes=[SIZES[format]])
    return out


def artefact(folder: Path) -> Path:
    """The one graph of a package of the whole sampler."""
    (graph,) = read_package(folder).graphs.values()
    return graph.path


def command(*arguments) -> subprocess.CompletedProcess:
    return run_here(export.main, *arguments)


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
    assert manifest["files"].keys() == on_disk - {"manifest.json"}  # nothing of the older package is left
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
    assert figures["stored_bytes"] < {"float16": 0.7, "int4": 0.7}.get(weights, 0.5) * figures["weight_bytes"]
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


# --- the gate


class Blind(SamplerProgram):
    """A program that does not look at its condition."""

    def image(self, condition, noise, ids=None):
        return super().image(tf.zeros_like(condition), noise)


def test_a_blind_artefact_is_refused_and_the_older_package_stays(bundle, model, tmp_path):
    out = tmp_path / "package"
    shutil.copytree(exported(bundle, "tflite"), out)
    before = folder_sha256(out)
    blind = Blind(model, steps=1, height=16, width=16)
    with pytest.raises(parity.ParityError, match=r"max error .* swapped conditions move its output by 0, the model's"):
        write_package([blind], out, format="saved_model")
    assert folder_sha256(out) == before and read_package(out).format == "tflite"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def hand_made(program, folder: Path, format: str, path: Path) -> package.Package:
    """A package of a graph that something else made."""
    schedule = ({"t": 0, "time": [], "a": 1.0, "b": 0.0},)
    graphs = {"sampler": GraphFile(path, ("condition", "noise"))}
    size = {"height": program.height, "width": program.width, "latent_shape": program.latent_shape}
    return package.Package(folder, format, **size, graphs=graphs, schedule=schedule, channels=3, task="bicubic")


def test_lost_weights_are_refused(program, tmp_path):
    """The trap: of a module that tracks Keras' variables, not TensorFlow's, TFLite gets no weights, and no error."""
    module = tf.Module()
    module.weights = list(program.variables_in_use())
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=program.trace(), options=OPTIONS)
    content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert()
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(parity.ParityError, match=r"output is not finite; .* it stores [0-9],[0-9]{3} bytes of weights"):
        parity.check(program, hand_made(program, tmp_path, "tflite", tmp_path / "model.tflite"), WeightFormats())


def test_a_file_that_the_runtime_does_not_load_is_refused(program, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(parity.ParityError, match="onnx: the runtime refuses the package"):
        parity.check(program, hand_made(program, tmp_path, "onnx", tmp_path / "model.onnx"), WeightFormats())


def test_a_dropped_group_norm_is_refused(program, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph.OnnxGraph, "group_norm", lambda self, x, layer: x)
    with pytest.raises(parity.ParityError, match="PSNR .* dB|not finite"):
        write_package([program], tmp_path / "out", format="onnx", layout="parts")
    assert not list(tmp_path.iterdir())


def figures(expected, outputs, program, stored=None, kind="float32", parts=None):
    weights = sum(v.numpy().nbytes for v in program.variables_in_use())
    return {
        **parity.compare(expected, outputs, len(expected) // 2),
        **parity.weigh(program, weights if stored is None else stored, WeightFormats()),
        "part_errors": parts or {},
        "bounds": parity.BOUNDS[kind]._asdict(),
    }


def images_that_move_by(change):
    """Two images and the same with another condition, which moves every value by `change`."""
    images = np.full((2, 4, 4, 3), 0.5, np.float32)
    return np.concatenate([images, images + np.float32(change)])


def test_figures_of_known_images(program):
    expected = images_that_move_by(0.1)
    outputs = expected.copy()
    outputs[0, 0, 0, 0] += 0.06
    found = parity.compare(expected, outputs, 2)
    assert found["max_error"] == pytest.approx(0.06, abs=1e-6)
    assert found["psnr_db"] == pytest.approx(-10 * np.log10(0.06**2 / 192), abs=1e-3)
    assert found["condition_sensitivity"]["keras"] == pytest.approx(0.1, abs=1e-6)
    assert found["condition_sensitivity"]["export"] == pytest.approx(0.1 - 0.06 / 96, abs=1e-6)
    parity.refuse("onnx", figures(expected, expected, program))  # equal: nothing to refuse


def test_refuses_too_large_an_error(program):
    expected = images_that_move_by(0.1)
    off = np.zeros_like(expected)
    off[:, 0, 0, 0] = 1
    parity.refuse("onnx", figures(expected, expected + np.float32(0.9e-3) * off, program))
    with pytest.raises(parity.ParityError, match="max error 0.0011"):
        parity.refuse("onnx", figures(expected, expected + np.float32(1.1e-3) * off, program))


def test_refuses_colors_that_shift(program):
    expected = images_that_move_by(0.1)
    with pytest.raises(parity.ParityError, match=r"written: colors shift by 0.03 \(allowed 0.02\)$"):
        parity.refuse("onnx", figures(expected, expected + np.float32([0.03, 0, 0]), program, kind="int8"))


def test_refuses_pictures_that_saturate(program):
    expected = images_that_move_by(0.1)
    expected[:, :2] = 0.99
    outputs = np.where(expected == np.float32(0.99), np.float32(1), expected)
    with pytest.raises(parity.ParityError, match=r"written: 50.0% of its numbers are 0 or 1, of the model's 0.0%$"):
        parity.refuse("onnx", figures(expected, outputs, program, kind="int8"))


def test_refuses_a_part_that_is_off(program):
    images = images_that_move_by(0.1)
    parity.refuse("onnx", figures(images, images, program, parts={"step": 0.9e-4}))
    with pytest.raises(parity.ParityError, match=r"written: its step has a relative error of 0.0002"):
        parity.refuse("onnx", figures(images, images, program, parts={"step": 2e-4}))


def test_refuses_a_lost_prompt(program):
    images = images_that_move_by(0.1)
    prompted = np.concatenate([images, images[:2] + np.float32(5e-4)])
    told = {**figures(images, images, program), **parity.compare(prompted, prompted, 2)}
    parity.refuse("onnx", told)
    deaf = {**told, **parity.compare(prompted, np.concatenate([images, images[:2]]), 2)}
    with pytest.raises(parity.ParityError, match=r"swapped prompts move its output by 0, the model's by 0.0005"):
        parity.refuse("onnx", deaf)


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
        (bundle, "--format", "onnx", "--out", out, "--steps", 0): "steps is 0: an exported sampler takes 1 to 16",
        (
            bundle,
            "--format",
            "onnx",
            "--out",
            out,
            "--weights",
            "int2",
        ): "weights is 'int2': onnx stores them as float32, ",
        (bundle, "--format", "onnx", "--out", out, "--weights", "mixed"): "mixed weights need --target-size or --min-p",
        (bundle, "--format", "onnx", "--out", out, "--min-psnr", 30): "mixed weights need --target-size or --min-psnr",
        (bundle, "--format", "onnx", "--out", out, "--target-size", "7"): "--target-size is '7': give a number and MB",
        (bundle, "--format", "saved_model", "--out", out, "--layout", "parts"): "layout is 'parts': saved_model offe",
        (bundle, "--out", out): "--format is missing: use one of onnx, saved_model, tflite",
        (bundle, "--out", out, "--adapter-of", tmp_path): f"{tmp_path}: no exported package; make one with",
        (bundle, "--format", "onnx", "--out", out, "--sampler", "ddmi"): "unknown sampler 'ddmi': did you mean 'ddim'?",
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
