"""The page on a graphics processor, which Chromium's software adapter stands in for: used where it computes rightly."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from chromium import GPU_FLAGS, RUNTIME, chromium, require, served
from onnx import TensorProto, helper
from web_pages import DONE, READY, made_by_run, shown, text

from export.web.site import GPU_RUNTIME, build_site

pytest_plugins = ["web_fixtures"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with chromium(GPU_FLAGS) as browser:
        if not browser.has_webgpu():
            pytest.skip("this Chromium has no WebGPU in software")
        yield browser


def with_plain_attention(package: Path, folder: Path) -> Path:
    """A package whose graphs have no MultiHeadAttention, but what it stands for, for a batch of one."""
    shutil.copytree(package, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in (entry["file"] for entry in manifest["graphs"].values()):
        model = onnx.load(folder / name)
        nodes = [new for node in model.graph.node for new in _plain(model.graph, node)]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        onnx.save(model, folder / name)
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _plain(graph: onnx.GraphProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if node.op_type != "MultiHeadAttention":
        return [node]
    (out,), heads = node.output, node.attribute[0].i
    graph.initializer.extend(
        [
            helper.make_tensor(f"{out}_rows", TensorProto.INT64, [4], [0, 0, heads, -1]),
            helper.make_tensor(f"{out}_columns", TensorProto.INT64, [3], [0, 0, -1]),
        ]
    )
    made = []

    def add(kind: str, *inputs: str, **attributes) -> str:
        made.append(helper.make_node(kind, inputs, [f"{out}_{len(made)}"], **attributes))
        return made[-1].output[0]

    q, k, v = (add("Transpose", add("Reshape", name, f"{out}_rows"), perm=[0, 2, 1, 3]) for name in node.input[:3])
    width = add("Shape", q, start=3, end=4)
    scale = add("Sqrt", add("Cast", width, to=TensorProto.FLOAT))
    weights = add("Softmax", add("Div", add("MatMul", q, add("Transpose", k, perm=[0, 1, 3, 2])), scale), axis=-1)
    mixed = add("Transpose", add("MatMul", weights, v), perm=[0, 2, 1, 3])
    made.append(helper.make_node("Reshape", [mixed, f"{out}_columns"], [out]))
    return made


def test_without_its_runtime_the_processor_computes(browser, packages, tmp_path):
    """Catches a page that waits for a graphics processor which cannot start."""
    require("onnxruntime-web")
    build_site(packages("super_resolution", "parts"), tmp_path / "site", RUNTIME)
    (tmp_path / "site" / GPU_RUNTIME).unlink()
    with served(tmp_path / "site") as (address, _):
        browser.open(f"{address}?device=gpu")
        browser.wait(READY)
        assert "by its processor (its graphics processor cannot run this model);" in text(browser, "facts")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / ((a.astype(float) - b) ** 2).mean())


def test_it_makes_the_image_of_export_run(browser, packages, photos, tmp_path):
    """Catches a page that never uses WebGPU, and one that loads the wrong runtime for it."""
    require("onnxruntime-web")
    package = with_plain_attention(packages("super_resolution", "parts"), tmp_path / "package")
    build_site(package, tmp_path / "site", RUNTIME)
    with served(tmp_path / "site") as (address, _):
        browser.open(f"{address}?device=gpu")
        browser.wait(READY)
        assert "by its graphics processor;" in text(browser, "facts")
        browser.choose("#photo", photos / "window.png")
        browser.wait(DONE)
        assert psnr(shown(browser)[..., :3], made_by_run(package, tmp_path, photos / "window.png")) > 50


def test_one_that_computes_wrongly_is_not_used(browser, packages, photos, tmp_path, monkeypatch):
    """Catches wrong images without an error: the processor takes over, and the page says so.

    The samples are of another seed, so no graphics processor makes them as the page says they were made.
    """
    require("onnxruntime-web")
    monkeypatch.setattr("export.web.samples.SEED", 1)
    build_site(packages("super_resolution", "parts"), tmp_path / "site", RUNTIME)
    with served(tmp_path / "site") as (address, _):
        browser.open(f"{address}?device=gpu")
        browser.wait(READY)
        assert "by its processor (its graphics processor makes other images of this model)" in text(browser, "facts")
        browser.choose("#photo", photos / "window.png")
        browser.wait(DONE)
        made = made_by_run(packages("super_resolution", "parts"), tmp_path, photos / "window.png")
        assert psnr(shown(browser)[..., :3], made) > 55
