"""The command export.web: what it writes, and its one-line errors."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import run_here
from conftest import make_base, make_model
from web_pages import package_maker

from codi_tf.core.errors import UserError
from codi_tf.io.folders import MARKER
from export.build import write_graphs, write_manifest, write_package
from export.emit.program import SamplerProgram
from export.quantization.weights import WeightFormats
from export.web import __main__ as web
from export.web import site
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
