"""The parity gate refuses what differs from the Keras model: exports that are damaged on purpose."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from export_cases import exported

import codi_tf
from codi_tf.io.hashing import folder_sha256
from export.build import write_package
from export.emit.program import SamplerProgram
from export.formats.format import GraphFile
from export.formats.onnx import graph as onnx_graph
from export.formats.saved_model.write import OPTIONS
from export.package import manifest as package
from export.package.manifest import read_package
from export.parity import gate as parity
from export.quantization.weights import WeightFormats


@pytest.fixture(scope="module")
def model(bundle):
    return codi_tf.load(bundle)


@pytest.fixture(scope="module")
def program(model):
    return SamplerProgram(model, steps=1, height=16, width=16)


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


def test_refuses_images_that_saturate(program):
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
