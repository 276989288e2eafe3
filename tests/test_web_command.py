"""The command export.web: what it writes, and its one-line errors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import run_here
from conftest import make_base, make_model
from PIL import Image
from web_pages import made_by_run, package_maker

from codi_tf.core.errors import UserError
from codi_tf.io.folders import MARKER
from export.build import write_graphs, write_manifest, write_package
from export.emit.program import SamplerProgram
from export.package.manifest import read_package
from export.quantization.weights import WeightFormats
from export.web import __main__ as web
from export.web import samples, site
from export.web.site import PROGRAM, SCRIPT, build_site


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The package of a task and a layout."""
    return package_maker(tmp_path_factory)


def command(*arguments) -> subprocess.CompletedProcess:
    return run_here(web.main, *arguments)


@pytest.fixture
def runtime(tmp_path):
    """Files with the runtime's names."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in (SCRIPT, PROGRAM):
        (folder / name).write_bytes(name.encode())
    return folder


def test_the_command_writes_the_page_and_only_it(packages, runtime, tmp_path):
    out = tmp_path / "site"
    for _ in range(2):  # a page is replaced
        done = command(packages(), "--out", out, "--runtime", runtime)
        assert done.returncode == 0, done.stderr
        assert f"python -m http.server --directory {out}" in done.stdout and "from-disk.html" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"site", "dist"}
    kinds = {path.suffix for path in out.rglob("*") if path.is_file() and path.name != MARKER}
    assert kinds == {".html", ".css", ".js", ".json", ".onnx", ".png", ".wasm"}  # any web server knows what scripts are
    manifest = json.loads((out / "package" / "manifest.json").read_text())
    assert manifest == json.loads((packages() / "manifest.json").read_text())
    assert (out / "package" / "model.onnx").read_bytes() == (packages() / "model.onnx").read_bytes()


def test_mistakes_are_one_line(packages, runtime, tmp_path):
    done = command(packages(), "--out", tmp_path / "site", "--runtime", tmp_path / "nowhere")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "ort.wasm.bundle.min.mjs: is missing; npm install onnxruntime-web" in done.stderr
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    with pytest.raises(UserError, match="taken: exists and is no page; choose another place"):
        build_site(packages(), tmp_path / "taken", runtime)
    with pytest.raises(UserError, match="no exported package"):
        build_site(tmp_path, tmp_path / "site", runtime)
    program = SamplerProgram(make_model(make_base()), steps=1, height=16, width=16)
    write_package([program], tmp_path / "lite", format="tflite", report=False)
    with pytest.raises(UserError, match="is a tflite package, a page runs ONNX; export with --format onnx"):
        build_site(tmp_path / "lite", tmp_path / "site", runtime)
    facts = write_graphs([program, program.at(16, 24)], tmp_path / "lite", "onnx", "whole", "float32", WeightFormats())
    write_manifest(tmp_path / "lite", facts, None)
    with pytest.raises(UserError, match="lite: is made for several sizes, a page for one; export with a single --size"):
        build_site(tmp_path / "lite", tmp_path / "site", runtime)
    assert not (tmp_path / "site").exists()


def test_a_package_that_is_too_large_is_refused(packages, runtime, tmp_path):
    """Catches advice that the package follows already."""
    large = shutil.copytree(packages(), tmp_path / "large")
    manifest = json.loads((large / "manifest.json").read_text())
    manifest["files"]["model.onnx.0.data"] = hashlib.sha256(b"").hexdigest()
    (large / "model.onnx.0.data").write_bytes(b"")
    for weights, advice in {
        "float32": "export with --weights float16 or int8 or int4",
        "int8": "export with --weights int4",
        "mixed": "export with --weights int4",
        "int4": "export a smaller model",
    }.items():
        (large / "manifest.json").write_text(json.dumps({**manifest, "weights": weights}))
        with pytest.raises(UserError, match=f"is larger than a browser's memory; {advice}$"):
            build_site(large, tmp_path / "site", runtime)


def test_what_is_large_comes_as_many_files_only(packages, runtime, tmp_path, monkeypatch):
    monkeypatch.setattr("export.web.site.MAX_ALONE", 10_000)
    assert build_site(packages(), tmp_path / "site", runtime) is None
    assert not (tmp_path / "site" / "from-disk.html").exists()
    assert "from-disk.html" not in (tmp_path / "site" / "index.html").read_text()


def test_names_and_contents_stay_text():
    """Catches names of files, and manifests, that end an element of the page and begin another."""
    evil = {'x"><script>alert(1)</script>': b"</script><script>alert(2)</script>"}
    for text in (site._held(evil), site._sizes(evil)):
        assert text.count("<script") == 1 and text.count("</script>") == 1


def test_rules_that_old_manifests_lack_are_written_down(runtime, tmp_path):
    """Catches a page that has to know which tasks of 0.1.0 take tiles."""
    build_site(Path(__file__).parent / "data" / "0.1.0" / "package", tmp_path / "site", runtime)
    manifest = json.loads((tmp_path / "site" / "package" / "manifest.json").read_text())
    assert manifest["is_local"] is True and manifest["condition_file"] == "image"


def test_samples_of_one_s_own(packages, runtime, tmp_path):
    """Catches a sample that is not what `codi run` makes of it, and a page that names files it does not have."""
    (tmp_path / "own").mkdir()
    random = np.random.default_rng(0)
    for name, size in {"b.png": (30, 40), "a.jpg": (640, 20)}.items():
        Image.fromarray(random.integers(0, 255, (*size, 3), np.uint8)).save(tmp_path / "own" / name)
    done = command(packages(), "--out", tmp_path / "site", "--runtime", runtime, "--samples", tmp_path / "own")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    listed = json.loads(re.search(r'id="samples">(.*?)</script>', page)[1])
    assert [set(sample) for sample in listed] == [{"before", "after"}] * 2
    sizes = [Image.open(tmp_path / "site" / sample["before"]).size for sample in listed]
    assert sizes == [(16, 512), (40, 30)]  # in the order of their names, and no larger than a page shows them
    small = tmp_path / "site" / listed[1]["before"]
    made = np.asarray(Image.open(tmp_path / "site" / listed[1]["after"]))
    np.testing.assert_array_equal(made, made_by_run(packages(), tmp_path, small))
    build_site(packages(), tmp_path / "site", runtime, "none")
    assert 'id="samples">[]</script>' in (tmp_path / "site" / "index.html").read_text()
    assert not (tmp_path / "site" / "samples").exists()


def test_samples_that_do_not_suit_the_package(packages, tmp_path):
    """Catches mistakes in a folder of samples that end in a traceback."""
    package = read_package(packages())
    with pytest.raises(UserError, match="nowhere"):
        samples.own(tmp_path / "nowhere", package)
    for number in range(13):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    with pytest.raises(UserError, match=f"{tmp_path}: has 13 images, a page shows at most 12 samples"):
        samples.own(tmp_path, package)
    for number in range(1, 13):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(UserError, match="0.txt: cannot be read; a sample of this package needs its prompt there"):
        samples.own(tmp_path, dataclasses.replace(package, prompted=True))
    (tmp_path / "0.txt").write_text("make it night\n")
    (sample,) = samples.own(tmp_path, dataclasses.replace(package, prompted=True))
    assert sample.prompt == "make it night" and sample.mask is None
    masked = dataclasses.replace(package, condition_file="masked_image", channels=4)
    with pytest.raises(UserError, match="--samples"):
        samples.own(tmp_path, masked)
    Image.fromarray(np.full((8, 8), 200, np.uint8) * np.eye(8, dtype=np.uint8)).save(tmp_path / "0.mask.png")
    (sample,) = samples.own(tmp_path, masked)
    np.testing.assert_array_equal(np.asarray(sample.mask), 255 * np.eye(8, dtype=np.uint8))
    with pytest.raises(UserError, match="no samples of depth maps that hold distances"):
        samples.own(tmp_path, dataclasses.replace(package, condition_file="depth"))
