"""examples/android: compiled, linked with LiteRT's own library, and run beside export.run on real photos."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from conftest import make_base, make_model
from manifests import bad_manifests, good_manifest, write_package
from PIL import Image

import codi_tf
from codi_tf.core.noise import gaussian_noise
from codi_tf.tasks.inpainting import Inpainting
from export.build import write_graphs, write_manifest
from export.emit.program import SamplerProgram
from export.formats import FORMATS
from export.package.manifest import MANIFEST
from export.quantization.weights import WeightFormats
from export.runtime.run import main as run_in_python

EXAMPLE = Path(__file__).parent.parent / "examples" / "android"
LITERT = Path(find_spec("ai_edge_litert").origin).parent
COMPILER = shutil.which("g++") or shutil.which("c++")
HEIGHT, WIDTH, STEPS = 16, 24, 2

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(not (LITERT / "libLiteRt.so").is_file(), reason="needs a LiteRT with libLiteRt.so"),
]


def compiled(source: Path, out: Path, *linked: str) -> Path:
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{EXAMPLE}"]
    subprocess.run([COMPILER, *options, str(source), "-o", str(out), *linked], check=True)
    return out


@pytest.fixture(scope="module")
def restore(tmp_path_factory):
    """The program: (package, in, out[, seed]) -> the completed process."""
    folder = tmp_path_factory.mktemp("restore")
    linked = (f"-L{LITERT}", "-lLiteRt", f"-Wl,-rpath,{LITERT}")
    program = compiled(EXAMPLE / "restore.cc", folder / "restore", *linked)
    return lambda *words: subprocess.run([program, *map(str, words)], capture_output=True, text=True)


def written(folder: Path, model: codi_tf.CoDi, *, layout: str = "parts", weights: str = "float32", **facts) -> Path:
    """A package, without the gate that other tests are about; `facts` take the place of the manifest's own."""
    program = SamplerProgram(model, steps=STEPS, height=HEIGHT, width=WIDTH)
    folder.mkdir()
    made = write_graphs([program], folder, "tflite", layout, weights, WeightFormats(weights))
    write_manifest(folder, {**made, **facts}, None)
    return folder


@pytest.fixture(scope="module")
def model():
    return make_model(make_base())


@pytest.fixture(scope="module")
def package(model, tmp_path_factory):
    return written(tmp_path_factory.mktemp("package") / "package", model)


@pytest.fixture
def photo(tmp_path):
    """A photo of the package's size, for both programs: in.ppm, in.png."""
    image = Image.fromarray(skimage.data.astronaut()[64:192, 160:352]).resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    image.save(tmp_path / "in.png")
    image.save(tmp_path / "in.ppm")
    return tmp_path / "in.ppm"


def both(restore, package: Path, photo: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the example and export.run make, int [H, W, 3]."""
    out = photo.parent / f"{seed}.ppm"
    done = restore(package, photo, out, seed)
    assert done.returncode == 0, done.stderr
    expected = out.with_suffix(".png")
    run_in_python([str(package), "--condition", f"{photo.parent}/in.png", "--out", str(expected), "--seed", str(seed)])
    return tuple(np.asarray(Image.open(path)).astype(int) for path in (out, expected))


def alike(found: np.ndarray, expected: np.ndarray) -> bool:
    """Roundings apart."""
    return np.abs(found - expected).max() <= 1 and np.mean(found != expected) < 0.02


@pytest.mark.parametrize(
    "weights",
    ["float32", "int8", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("float16", "int8_weight_only"))],
)
def test_the_image_is_that_of_export_run(restore, model, photo, tmp_path, weights):
    package = written(tmp_path / "package", model, weights=weights)
    first, expected = both(restore, package, photo, 0)
    other, expected_other = both(restore, package, photo, 2**40 + 3)
    assert first.shape == (HEIGHT, WIDTH, 3) and expected.std() > 10
    assert np.abs(expected - expected_other).max() > 10  # the noise is part of the image
    assert alike(first, expected) and alike(other, expected_other)


def test_without_a_seed_it_is_0(restore, package, photo, tmp_path):
    assert restore(package, photo, tmp_path / "a.ppm").returncode == 0
    assert restore(package, photo, tmp_path / "b.ppm", 0).returncode == 0
    assert (tmp_path / "a.ppm").read_bytes() == (tmp_path / "b.ppm").read_bytes()


def test_a_step_in_halves(restore, model, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(FORMATS["tflite"], "max_graph", sum(v.numpy().nbytes for v in model.network.unet.variables) - 1)
    package = written(tmp_path / "halves", model)
    assert {"step_1.tflite", "step_2.tflite"} < {path.name for path in package.iterdir()}
    found, expected = both(restore, package, photo, 1)
    assert alike(found, expected) and expected.std() > 10


def test_any_text_in_the_manifest(restore, model, package, photo, tmp_path):
    """Quotes, escapes, brackets and letters of all sorts in a prompt are no part of the manifest's structure."""
    odd = written(tmp_path / "odd", model, prompt='"a\\" ]}, {"steps": 1} \n \u00fc \U0001f600', task={"name": "[]"})
    both_of_them = [restore(folder, photo, tmp_path / f"{folder.name}.ppm") for folder in (odd, package)]
    assert [done.returncode for done in both_of_them] == [0, 0]
    assert (tmp_path / "odd.ppm").read_bytes() == (tmp_path / "package.ppm").read_bytes()


# The C++ program of the next test: float32 of the noise of a seed, to standard output.
NOISE = """
#include <cstdio>
#include <cstdlib>
#include "noise.h"
int main(int, char** words) {
  const std::vector<float> made = gaussian_noise(std::strtoull(words[1], nullptr, 10), std::atoi(words[2]));
  std::fwrite(made.data(), sizeof(float), made.size(), stdout);
}
"""


def test_the_noise_is_gaussian_noise(tmp_path):
    (tmp_path / "noise.cc").write_text(NOISE)
    program = compiled(tmp_path / "noise.cc", tmp_path / "noise")
    for seed in (0, 1, 2**40 + 3, 2**63 - 1):
        for count in (1, 6, 4000):
            made = subprocess.run([program, str(seed), str(count)], capture_output=True, check=True).stdout
            found, expected = np.frombuffer(made, "float32"), gaussian_noise(seed, (count,))
            np.testing.assert_allclose(found, expected, rtol=2e-7)  # two libraries' log, cos and sin
            assert np.mean(found == expected) > 0.99


@pytest.fixture(scope="module")
def packages(package, model, tmp_path_factory):
    """Packages that the example refuses, by their names, and one that it takes."""
    folder = tmp_path_factory.mktemp("refused")
    inpainting = make_model(make_base(), task=Inpainting())
    made = {
        "good": package,
        "none": folder / "none",
        "whole": written(folder / "whole", model, layout="whole"),
        "masked": written(folder / "masked", inpainting),
        "of_later": written(folder / "of_later", model, version=4),
        "no_json": shutil.copytree(package, folder / "no_json"),
        "no_step": shutil.copytree(package, folder / "no_step"),
        "changed_step": shutil.copytree(package, folder / "changed_step"),
        "linked_step": shutil.copytree(package, folder / "linked_step"),
        "other_step": shutil.copytree(package, folder / "other_step"),
    }
    manifest = (package / MANIFEST).read_text()
    (made["no_json"] / MANIFEST).write_text(manifest[: len(manifest) // 2])
    (made["no_step"] / "step.tflite").write_bytes(b"")
    (made["changed_step"] / "step.tflite").write_bytes(b"another")
    (made["linked_step"] / "step.tflite").rename(folder / "step.tflite")
    (made["linked_step"] / "step.tflite").symlink_to(folder / "step.tflite")
    empty = json.loads(manifest)
    empty["files"]["step.tflite"] = hashlib.sha256(b"").hexdigest()
    (made["no_step"] / MANIFEST).write_text(json.dumps(empty))
    mixed_up = json.loads(manifest)
    mixed_up["graphs"]["step"]["file"] = "decoder.tflite"
    (made["other_step"] / MANIFEST).write_text(json.dumps(mixed_up))
    return made


@pytest.mark.parametrize(
    "name, message",
    [
        ("none", "manifest.json: cannot be read; make a package with python -m export"),
        ("whole", "manifest.json: no LiteRT package of parts; export with --format tflite --layout parts"),
        ("masked", "manifest.json: wants a prompt or a mask, and this program knows neither; take export.run"),
        ("of_later", "manifest.json: it is of another version; export again"),
        ("no_json", "manifest.json: it is no JSON; export again"),
        ("no_step", "step.tflite: LiteRT says 500"),
        ("changed_step", "step.tflite: is damaged or changed (SHA-256); copy the package or export again"),
        ("linked_step", "step.tflite: is no file of the package; put the file itself there"),
        ("other_step", "z_next: no part of the package gives it; export again"),
    ],
)
def test_a_package_that_is_refused(restore, packages, photo, tmp_path, name, message):
    done = restore(packages[name], photo, tmp_path / "out.ppm")
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and last.startswith("error: ") and last.endswith(message)
    assert not list(tmp_path.glob("out*"))


def test_bad_manifests_are_refused(restore, photo, tmp_path):
    """The table of Python and the page. Catches a value of a stranger's manifest that is believed."""
    folder = write_package(tmp_path / "package", good_manifest("tflite"))
    good = restore(folder, photo, tmp_path / "out.ppm")
    assert "LiteRT says" in good.stderr  # the manifest and the sums of its files are fine
    texts = {change: json.dumps(manifest) for change, manifest in bad_manifests("tflite").items()}
    texts |= {
        text[:20]: text for text in ("", "5", "[" * 200_000, '{"a": 1, "a": 2}', '{"a": nan}', '{"a": 1e999}', "{}x")
    }
    taken = []
    for change, text in texts.items():
        (folder / MANIFEST).write_text(text)
        done = restore(folder, photo, tmp_path / "out.ppm")
        last = done.stderr.splitlines()[-1]
        if done.returncode != 2 or f"{MANIFEST}: " not in last or not last.endswith("; export again"):
            taken.append((change, done.returncode, last))
    assert taken == [] and not (tmp_path / "out.ppm").exists()


def test_bad_arguments(restore, package, photo, tmp_path):
    small, cut = tmp_path / "small.ppm", tmp_path / "cut.ppm"
    Image.open(photo).resize((8, 8)).save(small)
    cut.write_bytes(photo.read_bytes()[:-1])
    gray = tmp_path / "gray.ppm"
    Image.open(photo).convert("L").save(gray)
    out, size = tmp_path / "out.ppm", f"{WIDTH}x{HEIGHT}"
    for words, message in (
        ((photo, out), "usage: restore PACKAGE IN.ppm OUT.ppm [SEED]"),
        ((small, out, 0), f"{small}: 8x8, but the package was made for {size}; scale or crop it"),
        ((cut, out, 0), f"{cut}: ends too early; copy it again"),
        ((gray, out, 0), f"{gray}: no binary PPM of 8 bits a color; convert it into one"),
        ((tmp_path / "in.png", out, 0), f"{tmp_path}/in.png: no binary PPM of 8 bits a color; convert it into one"),
        ((tmp_path / "no.ppm", out, 0), f"{tmp_path}/no.ppm: cannot be read"),
        ((photo, tmp_path / "no" / "out.ppm", 0), f"{tmp_path}/no/out.ppm: cannot be written"),
        *(
            ((photo, out, seed), f"SEED is {seed}: it must be a whole number from 0 to 2^63 - 1")
            for seed in (-1, "1.5", "", 2**63)
        ),
    ):
        done = restore(*(words if message.startswith("usage") else (package, *words)))
        assert done.returncode == 2 and done.stderr.splitlines()[-1] == f"error: {message}"
        assert not list(tmp_path.glob("out*"))
