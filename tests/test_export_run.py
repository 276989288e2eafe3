"""Running a package: without TensorFlow, the same image as Keras, every size, bad input refused in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from export_cases import SIZES, STEPS, exported
from PIL import Image

import codi_tf
from codi_tf.core.errors import UserError
from codi_tf.core.noise import gaussian_noise
from export import build as making
from export.package import manifest as package
from export.runtime import run, tiling

# What `python -m export.run` does on a machine that has what docs/export.md names, and no TensorFlow and no Keras.
WITHOUT_TENSORFLOW = """
import importlib.abc, runpy, sys

ABSENT = "tensorflow keras yaml safetensors h5py google_crc32c tokenizers tensorboard matplotlib".split()

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
runpy.run_module("export.run", run_name="__main__", alter_sys=True)
"""


def command(*arguments) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-c", WITHOUT_TENSORFLOW, *map(str, arguments)]
    return subprocess.run(arguments, capture_output=True, text=True)


def photo(height: int, width: int) -> np.ndarray:
    """A smooth image, uint8 [height, width, 3]."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.rint(255 * np.stack([x, y, (x + y) / 2], axis=-1)).astype(np.uint8)


@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_the_same_image_as_keras_without_tensorflow(bundle, tmp_path, format):
    image = photo(*SIZES[format])
    Image.fromarray(image).save(tmp_path / "in.png")
    done = command(
        exported(bundle, format), "--condition", tmp_path / "in.png", "--out", tmp_path / "out.png", "--seed", 3
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    tf.config.run_functions_eagerly(True)  # compiling takes longer than running once
    try:
        expected = codi_tf.load(bundle).generate(image, steps=STEPS, seed=3)
    finally:
        tf.config.run_functions_eagerly(False)
    found = np.asarray(Image.open(tmp_path / "out.png"))
    assert found.shape == expected.shape and expected.std() > 10
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "out.png"}


def test_the_blocker_blocks(tmp_path):
    script = WITHOUT_TENSORFLOW.split("runpy.run")[0] + "import keras"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "No module named 'keras'" in done.stderr


@pytest.mark.parametrize(
    "mode, size, how",
    [
        ("RGB", (1, 1), "computed at 24x16 in 2 steps"),
        ("L", (37, 100), "made in 15 tiles of 24x16 and 2 steps"),
        ("RGBA", (9, 200), "made in 10 tiles of 24x16 and 2 steps"),
        ("I;16", (16, 24), "computed at 24x16 in 2 steps"),
    ],
)
def test_any_size_and_mode(bundle, tmp_path, mode, size, how, capsys):
    height, width = size
    file_image = Image.fromarray(photo(height, width))
    file_image = Image.fromarray(np.asarray(file_image.convert("L"), np.uint16) * 256) if mode == "I;16" else file_image
    file_image = file_image if mode == "I;16" else file_image.convert(mode)
    assert file_image.mode == mode
    file_image.save(tmp_path / "in.png")
    run.main([str(exported(bundle, "tflite")), "--condition", f"{tmp_path}/in.png", "--out", f"{tmp_path}/out.png"])
    with Image.open(tmp_path / "out.png") as out:
        assert out.mode == "RGB" and out.size == (width, height)
    assert f"out.png: {width}x{height}, {how}" in capsys.readouterr().out


def a_package(height: int, width: int, **facts) -> package.Package:
    schedule = ({"t": 0, "time": [], "a": 1.0, "b": 0.0},)
    of_task = {"task": "super_resolution", "keeps_colors": True, "is_local": True, "channels": 3, **facts}
    return package.Package(
        Path("package"), "onnx", height, width, (1, height // 4, width // 4, 4), {}, schedule, **of_task
    )


def a_sampler(height: int, width: int, sample, **facts) -> run.Sampler:
    """A package of one graph, `sample`, a function of condition and noise."""
    return run.Sampler(a_package(height, width, **facts), {"sampler": lambda inputs: {"image": sample(**inputs)}})


@pytest.mark.parametrize(
    "size, fitted", [((16, 24), (16, 24)), ((32, 32), (16, 16)), ((8, 6), (16, 12)), ((4, 600), (1, 24))]
)
def test_condition_is_fitted_without_distortion(size, fitted):
    """A ramp from the left edge to the right one keeps its slope, and fills the width or the height."""
    image = photo(*size) / np.float32(255)
    calls = []

    def sampler(condition, noise):
        calls.append((condition, noise))
        return condition

    result = run.generate(a_sampler(16, 24, sampler), image, seed=5, tile=False)
    condition, noise = calls[0]
    assert condition.shape == (1, 16, 24, 3) and condition.dtype == np.float32
    np.testing.assert_array_equal(noise, gaussian_noise(5, (1, 4, 6, 4)))
    height, width = fitted
    inner = condition[0, :height, :width]
    if width > 1:  # red runs along the width, from 0 to 1, whatever the size
        np.testing.assert_allclose(inner[0, :, 0], np.clip(_ramp(width, size[1]), 0, 1), atol=0.05)
    mirrored = np.pad(inner, [(0, 16 - height), (0, 24 - width), (0, 0)], "reflect")
    np.testing.assert_array_equal(condition[0], mirrored)
    assert result.shape == image.shape
    if size == (16, 24):
        np.testing.assert_array_equal(result, image)  # nothing is resampled
    elif min(fitted) > 1:
        np.testing.assert_allclose(result, image, atol=0.06)


def _ramp(width: int, original: int) -> np.ndarray:
    """A ramp that is 0 and 1 at the centers of the first and last of `original` pixels, at the centers of `width`."""
    return ((np.arange(width) + 0.5) / width * original - 0.5) / (original - 1)


def test_a_saved_model_needs_tensorflow(copied, tmp_path):
    (copied / "model" / "1").mkdir(parents=True)
    (copied / "model.tflite").rename(copied / "model" / "1" / "saved_model.pb")
    manifest = json.loads((copied / "manifest.json").read_text())
    graphs = {"sampler": {**manifest["graphs"]["sampler"], "file": "model/1"}}
    files = {"model/1/saved_model.pb": manifest["files"]["model.tflite"]}
    spoil_manifest(copied, format="saved_model", graphs=graphs, files=files)
    Image.fromarray(photo(16, 16)).save(tmp_path / "in.png")
    done = command(copied, "--condition", tmp_path / "in.png", "--out", tmp_path / "out.png")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "a saved_model package needs TensorFlow" in done.stderr and "--format onnx or tflite" in done.stderr


@pytest.fixture
def copied(bundle, tmp_path):
    """A copy of the TFLite package, to be spoiled."""
    return shutil.copytree(exported(bundle, "tflite"), tmp_path / "package")


def test_changed_files_are_refused_on_the_command_line(copied, tmp_path):
    Image.fromarray(photo(16, 24)).save(tmp_path / "in.png")
    content = bytearray((copied / "model.tflite").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "model.tflite").write_bytes(content)
    done = command(copied, "--condition", tmp_path / "in.png", "--out", tmp_path / "out.png")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {copied / 'model.tflite'}: is damaged or changed (SHA-256); copy the package or export again\n"
    )
    assert not (tmp_path / "out.png").exists()


def test_bad_images_are_refused_on_the_command_line(copied, tmp_path):
    (tmp_path / "in.png").write_bytes(b"no image")
    done = command(copied, "--condition", tmp_path / "in.png", "--out", tmp_path / "new" / "out.png")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: cannot read image {tmp_path / 'in.png'}: not an image")
    assert {path.name for path in tmp_path.iterdir()} == {"package", "in.png"}


def spoil_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= changes
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "coreml"},
        {"format": "onnx"},
        {"files": None},
        {"files": {}},
        {"image_size": 16},
        {"inputs": {}},
        {"graphs": {}},
    ],
)
def test_spoiled_manifests_are_refused(copied, changes):
    spoil_manifest(copied, **changes)
    with pytest.raises(UserError, match=r"manifest\.json: .*export again"):
        package.read_package(copied)


def test_missing_files_are_refused(copied, tmp_path):
    (copied / "model.tflite").unlink()
    with pytest.raises(UserError, match=r"model\.tflite: is missing"):
        package.read_package(copied)
    (copied / "manifest.json").unlink()
    for folder in (copied, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=f"{folder}: no exported package"):
            package.read_package(folder)


def test_bad_seed_is_refused():
    with pytest.raises(UserError, match="seed is -1"):
        run.generate(a_sampler(16, 24, np.add), np.zeros((16, 24, 3), np.float32), seed=-1)


@pytest.mark.parametrize(
    "format, module, name", [("tflite", "ai_edge_litert", "LiteRT"), ("onnx", "onnxruntime", "ONNX")]
)
def test_a_missing_runtime_is_named(bundle, monkeypatch, format, module, name):
    made = package.read_package(exported(bundle, format))
    for loaded in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"needs {name}.*pip install {module.replace('_', '-')}"):
        run.load(made)


# --- large images


@pytest.mark.parametrize("size", [(16, 24), (20, 24), (30, 61)])
def test_tiles_meet_without_seams(size):
    """Of a sampler that gives its condition back, tiles are the image; each sees a condition of the graph's size."""
    image, shapes = photo(*size) / np.float32(255), []

    def sample(condition, noise):
        shapes.append((condition.shape, noise.shape))
        return condition

    result = run.generate(a_sampler(16, 24, sample), image, seed=5, tile=True)
    assert set(shapes) == {((1, 16, 24, 3), (1, 4, 6, 4))} and len(shapes) >= (size != (16, 24)) + 1
    np.testing.assert_allclose(result, image, atol=1e-6)


def test_tiles_of_parts_share_every_step(bundle, tmp_path):
    """One tile is the image without tiles; of more, what is far from the seam is as if the tile were alone."""
    making.make_package(
        bundle, tmp_path / "parts", format="onnx", layout="parts", steps=2, sizes=[(16, 16)], report=False
    )
    sampler = run.load(package.read_package(tmp_path / "parts"))
    image = photo(16, 40) / np.float32(255)
    alone = run.generate(sampler, image[:, :16], seed=5)
    np.testing.assert_array_equal(run.generate(sampler, image[:, :16], seed=5, tile=True), alone)
    tiled, scaled = (run.generate(sampler, image, seed=5, tile=tile) for tile in (True, False))
    assert tiled.shape == scaled.shape == image.shape
    again = [run.generate(sampler, np.roll(image, 1, axis=0), seed=5, tile=True), tiled]
    assert np.abs(np.subtract(*again)).mean() > 1e-4  # it looks at the condition
    inner = np.diff(tiled, axis=1)
    seams = np.abs(inner[:, [11, 12, 15, 16]]).mean()
    assert seams < 3 * np.abs(inner).mean()


def test_colors_are_those_of_the_condition_where_that_is_asked_for():
    """A sampler that gives a tint and a detail: the alignment takes the tint away and leaves the detail."""
    image = photo(32, 48) / np.float32(255)
    detail = np.where(np.indices((32, 48)).sum(0) % 2, 0.02, -0.02).astype("float32")[..., None]

    def sample(condition, noise):
        return np.clip(condition * 0.8 + 0.1 + np.float32([0.1, 0, -0.05]) + detail, 0, 1)

    sampler = a_sampler(32, 48, sample)
    plain, aligned = (run.generate(sampler, image, seed=0, color=c) for c in ("none", "wavelet"))
    inner = slice(4, -4)
    assert np.abs(plain - image).mean() > 0.05
    np.testing.assert_allclose((aligned - image)[inner, inner].mean((0, 1)), 0, atol=5e-3)
    assert np.abs(np.diff(aligned[inner, inner] - image[inner, inner], axis=1)).mean() > 0.03
    other = dataclasses.replace(sampler.package, task="depth", keeps_colors=False)
    with pytest.raises(UserError, match="was made for depth, which changes colors; leave it out"):
        run.generate(dataclasses.replace(sampler, package=other), image, seed=0, color="adain")


WHOLE = {"task": "depth", "is_local": False}  # a task that needs the whole image


@pytest.mark.parametrize(
    "facts, size, tile, pieces",
    [
        ({}, (30, 61), None, 9),
        ({}, (30, 61), True, 9),
        ({}, (30, 61), False, 1),
        ({}, (16, 24), True, 1),
        ({}, (8, 12), True, 1),
        ({}, (8, 60), None, 3),
        (WHOLE, (30, 61), None, 1),
        (WHOLE, (30, 61), False, 1),
    ],
)
def test_what_is_larger_than_the_package_is_made_in_tiles(facts, size, tile, pieces):
    """Catches a photo that is shrunk to the package's size though its task allows tiles, or tiles where it forbids."""
    calls, image = [], photo(*size) / np.float32(255)

    def sample(condition, noise):
        calls.append(condition)
        return condition

    reports = []
    sampler = a_sampler(16, 24, sample, **facts)
    result = run.generate(sampler, image, seed=5, tile=tile, report=lambda *so_far: reports.append(so_far))
    assert len(calls) == pieces == run.make_plan(sampler.package, image, tile).pieces
    assert reports == ([(i + 1, pieces) for i in range(pieces)] if pieces > 1 else [])
    assert (np.abs(result - image).max() < 1e-5) == (pieces > 1 or size == (16, 24))


def test_a_task_that_needs_the_whole_image_refuses_tiles():
    """Catches depth and editing in tiles, of which each would be normalized or edited alone."""
    sampler = a_sampler(16, 24, lambda condition, noise: condition, **WHOLE)
    with pytest.raises(UserError, match="--tile: package was made for depth, which needs the whole image at once"):
        run.generate(sampler, photo(30, 61) / np.float32(255), seed=0, tile=True)


def test_a_mask_that_covers_a_tile_is_filled_with_the_whole_image_in_view():
    """Catches a tile that holds nothing known, from which nothing can follow."""
    image = np.concatenate([photo(48, 48) / np.float32(255), np.zeros((48, 48, 1), np.float32)], axis=-1)
    made_for = a_package(16, 24, task="inpainting", channels=4, condition_file="masked_image")
    image[2:17, :, 3] = 1
    assert run.make_plan(made_for, image).tiled
    image[0:17, :, 3] = 1
    plan = run.make_plan(made_for, image)
    assert not plan.tiled and plan.note == "the mask covers a whole tile; export with a larger --size, or add --tile"
    assert run.make_plan(made_for, image, True).tiled


def test_the_command_says_how_it_made_the_image(bundle, tmp_path, capsys):
    """Catches a line that names the package's size though the image was made at another, and long silent runs."""
    Image.fromarray(photo(20, 60)).save(tmp_path / "in.png")
    options = [str(exported(bundle, "tflite")), "--condition", f"{tmp_path}/in.png", "--out", f"{tmp_path}/out.png"]
    run.main(options)
    said = capsys.readouterr()
    assert "out.png: 60x20, made in 6 tiles of 24x16 and 2 steps" in said.out
    assert "tile 6/6, " in said.err
    run.main([*options, "--no-tile"])
    said = capsys.readouterr()
    assert "out.png: 60x20, made at 24x8 in 2 steps and enlarged\n" in said.out and said.err == ""


def test_features_that_are_too_many_to_keep_are_computed_again(bundle, tmp_path, monkeypatch):
    """Catches memory that grows with the number of tiles, and a difference between the two ways."""
    options = {"format": "onnx", "layout": "parts", "steps": 2, "sizes": [(16, 16)], "report": False}
    making.make_package(bundle, tmp_path / "parts", **options)
    sampler, counts = run.load(package.read_package(tmp_path / "parts")), []
    encode = sampler.graphs["encoder"]

    def counted(inputs):
        counts[-1] += 1
        return encode(inputs)

    sampler = dataclasses.replace(sampler, graphs={**sampler.graphs, "encoder": counted})
    images = []
    for most in (tiling.MAX_KEPT, 0):
        monkeypatch.setattr(tiling, "MAX_KEPT", most)
        counts.append(0)
        images.append(run.generate(sampler, photo(16, 40) / np.float32(255), seed=5))
    assert counts == [4, 10]  # three tiles: once each, or in both steps and at the end; and the first, to be measured
    np.testing.assert_array_equal(*images)
