"""Where commands may write: everything about --out is checked before any work, and nothing of others is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from commands import run_here
from conftest import make_base, make_model
from export_cases import exported
from PIL import Image
from tiny import tiny_run

import codi_tf
import demo
from codi_tf.checkpoints.stable_diffusion import load_stable_diffusion
from codi_tf.cli import cache, convert, evaluate, pairs, prepare, restore, sample, train
from codi_tf.core.errors import UserError
from codi_tf.io.folders import MARKER
from codi_tf.io.hashing import file_sha256
from codi_tf.io.save_image import FORMATS, write_image
from export import __main__ as export
from export import build
from export.runtime import run
from export.web import __main__ as web

OLD = Path(__file__).parent / "data" / "0.1.0"
FOLDER_COMMANDS = ("evaluate", "pairs", "convert", "export", "web", "adapter", "cache", "prepare", "train")
FILE_COMMANDS = ("restore", "sample", "run")


@pytest.fixture(scope="module")
def call(bundle, tmp_path_factory):
    """A function: name of a command and its --out -> what it does with good inputs."""
    folder = tmp_path_factory.mktemp("inputs")
    package = exported(bundle, "onnx")
    photo, dist = folder / "photo.png", folder / "dist"
    Image.new("RGB", (16, 16), "gray").save(photo)
    dist.mkdir()
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (dist / name).write_text("")
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_run(folder, steps=1)))
    commands = {
        "restore": (restore.main, bundle, "--condition", photo, "--steps", 1, "--out"),
        "sample": (sample.main, bundle, "--condition", photo, "--steps", 1, "--out"),
        "run": (run.main, package, "--condition", photo, "--out"),
        "evaluate": (evaluate.main, bundle, "--count", 2, "--steps", 1, "--out"),
        "pairs": (pairs.main, "--count", 1, "--out"),
        "convert": (convert.main, bundle),
        "export": (export.main, bundle, "--format", "onnx", "--out"),
        "adapter": (export.main, bundle, "--adapter-of", OLD / "package", "--out"),
        "web": (web.main, package, "--runtime", dist, "--out"),
        "cache": (cache.main, config, "--examples", 2, "--out"),
        "prepare": (prepare.main, folder / "photos", "--out"),
        "train": (train.main, config, "--out"),
    }

    def run_command(name: str, out):
        main, *arguments = commands[name]
        return run_here(main, *arguments, out)

    run_command.bundle, run_command.package, run_command.config, run_command.photo = bundle, package, config, photo
    return run_command


def error_of(done) -> str:
    assert done.returncode == 2 and done.stdout == "", (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def tree(folder: Path) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("name", FOLDER_COMMANDS)
def test_folders_of_others_and_impossible_places(call, tmp_path, monkeypatch, name):
    """Catches an --out that is looked at after the work, an empty one that means the current folder, and --out ."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "result").mkdir(parents=True)
    (tmp_path / "photos" / "result" / "mine.jpg").write_text("mine")
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    before = {**tree(tmp_path / "photos"), "file": "mine"}
    places = ["photos", "file", "file/new", "pipe", "circle", "x" * 250]
    for out in places:
        assert out in error_of(call(name, out)), out
    assert ("TARGET" if name == "convert" else "--out") in error_of(call(name, ""))
    if name not in ("cache", "train"):
        assert "." in error_of(call(name, "."))
    assert {**tree(tmp_path / "photos"), "file": (tmp_path / "file").read_text()} == before
    assert stat.S_ISFIFO(os.stat("pipe").st_mode) and len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("name", FILE_COMMANDS)
def test_files_at_impossible_places(call, tmp_path, monkeypatch, name):
    """Catches a device that an image takes the place of, and a name that only Pillow finds out to be wrong."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe.png")
    messages = {
        "folder.png": "folder.png: that is a folder; name a file",
        ".": ".: that is a folder; name a file",
        "file/new.png": "nothing can be written into",
        "pipe.png": "is a pipe, which a file would replace",
        "x.xyz": "x.xyz: images are not written as .xyz; use a name that ends in .png, .jpg",
        "out": "out: the name has no extension; use a name that ends in .png, .jpg",
        "": "--out is '': name a file or a folder",
    }
    for out, message in messages.items():
        assert message in error_of(call(name, out)), out
    assert stat.S_ISFIFO(os.stat("pipe.png").st_mode) and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_is_written_as_its_name_says(tmp_path, suffix):
    """Catches a PNG that is called .jpg."""
    image = np.linspace(0, 1, 24 * 32 * 3, dtype=np.float32).reshape(24, 32, 3)
    try:
        write_image(tmp_path / f"new/photo{suffix.upper()}", image)
    except UserError as error:
        assert "images are not written as" in str(error) and suffix in (".avif", ".jp2", ".webp")
        pytest.skip("this Pillow was built without it")
    with Image.open(tmp_path / f"new/photo{suffix.upper()}") as opened:
        found = np.asarray(opened)
        assert opened.format == FORMATS[suffix] and found.shape == (24, 32, 3)
        assert np.abs(found / 255 - image).max() < 0.05


def test_a_jpeg_of_a_command_and_a_size_that_its_format_cannot_hold(call, tmp_path):
    done = call("run", tmp_path / "photo.jpg")
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "photo.jpg").format == "JPEG"
    with pytest.raises(UserError, match="WEBP takes at most 16,383 pixels a side, not 20,000; use .png"):
        write_image(tmp_path / "wide.webp", np.zeros((1, 20_000, 3), np.uint8))


def test_a_page_keeps_what_others_put_into_it(call, tmp_path):
    """Catches a site that is emptied because an older page is in it; with a marker, and as 0.1.0 wrote it."""
    site = tmp_path / "site"
    for _ in range(2):
        assert call("web", site).returncode == 0
    for marked in (True, False):
        if not marked:
            (site / MARKER).unlink()
            assert call("web", site).returncode == 0  # it is recognized, and gets its marker back
            (site / MARKER).unlink()
        for stranger in ("CNAME", ".git/HEAD", "package/notes.txt"):
            (site / stranger).parent.mkdir(exist_ok=True)
            (site / stranger).write_text("mine")
            assert f"holds more than its page: {stranger}" in error_of(call("web", site))
            (site / stranger).unlink()


@pytest.mark.parametrize("name", ["export", "adapter"])
def test_a_package_keeps_what_others_put_into_it(call, tmp_path, name):
    """Also one of 0.1.0, which has no marker: its manifest lists what is its own."""
    for out in (shutil.copytree(OLD / "package", tmp_path / "old"), shutil.copytree(call.package, tmp_path / "new")):
        (out / "report.txt").write_text("mine")
        assert "holds more than its exported package: report.txt" in error_of(call(name, out))
    assert (tmp_path / "old" / "step.onnx").is_file()


def test_inputs_are_not_replaced_by_the_result(call, tmp_path):
    """Catches an adapter that is exported over the package that it is for, and a page over its own package."""
    package = shutil.copytree(OLD / "package", tmp_path / "package")
    line = error_of(run_here(export.main, call.bundle, "--adapter-of", package, "--out", package))
    assert "is read from there and would be replaced" in line
    line = error_of(run_here(export.main, call.bundle, "--adapter-of", package, "--out", tmp_path))
    assert "is read from there and would be replaced" in line
    assert "would be replaced" in error_of(call("web", call.package))
    assert "would be replaced" in error_of(call("evaluate", call.bundle))


def test_a_bundle_keeps_what_others_put_into_it(bundle, tmp_path):
    """Catches `save` that deletes a README next to the weights, with a marker and as 0.1.0 wrote it."""
    model = codi_tf.load(bundle)
    for path in (shutil.copytree(OLD / "bundle", tmp_path / "old"), shutil.copytree(bundle, tmp_path / "new")):
        (path / "README.md").write_text("mine")
        with pytest.raises(UserError, match="holds more than its bundle: README.md; move that away or choose"):
            model.save(path)
        (path / "README.md").unlink()
        model.save(path)
        assert (path / MARKER).is_file()
        with pytest.raises(UserError, match="allow overwriting"):
            model.save(path, overwrite=False)


def test_a_base_is_not_replaced_by_the_adapter_that_names_it(bundle, tmp_path):
    """A bundle is a base, too. Catches PE-CoDi saved over the bundle whose weights it needs."""
    path = shutil.copytree(bundle, tmp_path / "bundle")
    light = codi_tf.CoDi(load_stable_diffusion(path), train="adapter")
    with pytest.raises(UserError, match="is read from there and would be replaced"):
        light.save(path)
    light.save(tmp_path / "light")
    codi_tf.load(tmp_path / "light")


def test_a_full_disk_during_save_is_one_line(tmp_path, monkeypatch):
    """Catches the system's error, from whichever library: NumPy's, or one that only quotes it."""
    from codi_tf import bundle as bundles

    model = make_model(make_base())
    for error in (
        OSError(28, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr(bundles, "save_base", fail)
        with pytest.raises(UserError, match="cannot write .*full: No space left on device; make room or choose"):
            model.save(tmp_path / "full")
        assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "cannot write .*package: No space left on device; make room"),
        (
            MemoryError("Unable to allocate 4.00 TiB"),
            "not enough memory .Unable to allocate 4.00 TiB.; choose a smaller",
        ),
    ],
)
def test_a_fault_of_the_machine_during_an_export_is_one_line(call, tmp_path, monkeypatch, error, said):
    """Catches a traceback, and a package that is left half-written."""

    def fail(*_):
        raise error

    monkeypatch.setattr(build, "write_graphs", fail)
    done = call("export", tmp_path / "package")
    assert done.returncode == 2 and re.match(f"error: {said}", done.stderr.splitlines()[-1]), done.stderr
    assert not any(tmp_path.iterdir())


def test_a_disk_with_too_little_room_is_told_before_anything_is_written(bundle, tmp_path, monkeypatch):
    """Catches gigabytes that are written until the disk is full."""
    model = codi_tf.load(bundle)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20_000))
    with pytest.raises(UserError, match="new: needs .* MB, and 0 MB are free; make room or choose another place"):
        model.save(tmp_path / "new")
    with pytest.raises(UserError, match="new: needs .* MB"):
        codi_tf.save_stable_diffusion(model.base, tmp_path / "new")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["onnx", "tflite"])
@pytest.mark.parametrize("content", [b"", b"no model" * 20])
def test_a_file_that_its_runtime_refuses_is_one_line(call, tmp_path, format, content):
    """Also where its hash is right. Catches a runtime's traceback, and a file that is named in place of a folder."""
    package = shutil.copytree(exported(call.bundle, format), tmp_path / "package")
    graph = next(path for path in package.iterdir() if path.suffix == f".{format}")
    assert f"is a file of a package; name its folder, {package}" in error_of(
        run_here(run.main, graph, "--condition", call.photo, "--out", tmp_path / "out.png")
    )
    graph.write_bytes(content)
    manifest = json.loads((package / "manifest.json").read_text())
    manifest["files"][graph.name] = file_sha256(graph)
    (package / "manifest.json").write_text(json.dumps(manifest))
    line = error_of(run_here(run.main, package, "--condition", call.photo, "--out", tmp_path / "out.png"))
    assert str(graph) in line and "fails" in line and "export" in line


def test_a_graph_that_fails_while_it_runs_is_one_line(call):
    """Catches the runtime's own exception from `Sampler`."""
    sampler = run.load(run.read_package(call.package))
    with pytest.raises(UserError, match="model.onnx: ONNX Runtime fails "):
        sampler(np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 4, 4, 4), np.float32))


def test_a_file_of_a_bundle_in_place_of_its_folder(call, tmp_path):
    out = tmp_path / "out.png"
    file = call.bundle / "codi.json"
    for done in (
        run_here(restore.main, file, "--condition", call.photo, "--out", out),
        run_here(export.main, file, "--format", "onnx", "--out", tmp_path / "package"),
        run_here(evaluate.main, file, "--out", tmp_path / "report"),
    ):
        assert f"is a file of a bundle; name its folder, {call.bundle}" in error_of(done)


def test_a_bundle_that_was_being_replaced_is_found_by_who_reads_it(bundle, call, tmp_path):
    """A kill between the two renames hides both copies. Catches "no such model" for a model that is there."""
    work = tmp_path / ".bundle.abcd1234.codi_tf"
    for name, read in (("bundle", codi_tf.load), ("package", run.read_package)):
        work = tmp_path / f".{name}.abcd1234.codi_tf"
        work.mkdir()
        shutil.copytree(getattr(call, name), work / "old")
        read(tmp_path / name)
        assert (tmp_path / name / MARKER).is_file() and not work.exists()


@pytest.mark.slow  # two runs; the quick tier has the check of a folder, and train with a folder of others
def test_a_run_keeps_what_others_put_into_its_result(call, tmp_path):
    """Before the training, not after it. Catches `result/` that is emptied, and a folder that is taken for a run."""
    out = tmp_path / "run"
    assert call("train", out).returncode == 0
    assert MARKER in {path.name for path in (out / "result").iterdir()}
    shutil.rmtree(out / "checkpoints")
    (out / "result" / "notes.txt").write_text("mine")
    done = call("train", out)
    assert done.returncode == 2 and "result: holds more than its bundle: notes.txt" in done.stderr
    assert not (out / "checkpoints").exists()


def test_the_demo_does_not_empty_any_folder(tmp_path, monkeypatch):
    """Catches `python demo.py --out ~`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    for out in ("home", ".", ""):
        error_of(run_here(demo._main, "--out", out))
    assert (tmp_path / "home" / "letter.txt").exists()
