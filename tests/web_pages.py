"""Packages for pages, and what a page shows."""

from __future__ import annotations

import base64
import contextlib
import io
import math
from pathlib import Path

import numpy as np
import pytest
from chromium import RUNTIME, chromium, require, served
from conftest import make_base, make_model
from PIL import Image
from tiny import randomize, tiny_text

from codi_tf.checkpoints.stable_diffusion import with_text
from codi_tf.data import load_photos
from export.build import write_package
from export.emit.program import SamplerProgram
from export.runtime import run
from export.web.site import build_site

HEIGHT, WIDTH, STEPS = 48, 64, 3
DONE = "document.body.dataset.state === 'done' || document.getElementById('error').textContent"
READY = "document.body.dataset.state === 'empty' && !document.getElementById('status').textContent"


def package_maker(tmp_path_factory):
    """A function: task and layout -> the folder of a package, made once."""
    made = {}

    def package(task: str = "super_resolution", layout: str = "whole") -> Path:
        if (task, layout) not in made:
            folder = made[task, layout] = tmp_path_factory.mktemp("package") / f"{task}-{layout}"
            base = make_base()
            if task == "editing":  # does what a prompt says
                base = with_text(base, tiny_text(tmp_path_factory.mktemp("text"), 8))
                randomize([v for v in base.unet.variables if "attn2" in v.path])
            program = SamplerProgram(make_model(base, task=task), steps=STEPS, height=HEIGHT, width=WIDTH)
            write_package([program], folder, format="onnx", layout=layout, report=False)
        return made[task, layout]

    return package


def shown(browser, canvas: str = "after") -> np.ndarray:
    """What a canvas of the page holds, RGBA uint8 [H, W, 4]."""
    url = browser.evaluate(f"document.getElementById('{canvas}').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))


def made_by_run(package: Path, folder: Path, photo: Path, *options) -> np.ndarray:
    """The picture of `python -m export.run`."""
    out = folder / "out.png"
    run.main([str(package), "--condition", str(photo), "--out", str(out), *map(str, options)])
    return np.asarray(Image.open(out))


def assert_same_picture(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == (*expected.shape[:2], 4) and (found[..., 3] == 255).all()
    error = np.abs(found[..., :3].astype(float) - expected)
    assert expected.std() > 10 and error.max() <= 1  # what is one thing here may be rounded elsewhere
    assert error.mean() < 0.05 and 20 * math.log10(255 / max(1e-9, (error**2).mean() ** 0.5)) >= 55


def text(browser, name: str) -> str:
    """The text of an element."""
    return browser.evaluate(f"document.getElementById('{name}').textContent")


def click(browser, *names: str) -> None:
    """Click elements."""
    browser.evaluate("".join(f"document.getElementById('{name}').click();" for name in names))


def state(browser) -> str:
    """The page's state: see export/web/page/app.js."""
    return browser.evaluate("document.body.dataset.state")


def run_again(browser) -> None:
    """Make the image again."""
    click(browser, "run")
    browser.wait("document.body.dataset.state === 'running'")
    browser.wait(DONE)


# --- fixtures, for `pytest_plugins = ["web_pages"]`


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The package of a task and a layout."""
    return package_maker(tmp_path_factory)


@pytest.fixture(scope="module")
def sites(tmp_path_factory, packages):
    """The site of a package, served: its address, and the requests that came."""
    require("onnxruntime-web")
    with contextlib.ExitStack() as stack:
        made = {}

        def site(*which: str) -> tuple[str, list[str], Path]:
            if which not in made:
                folder = tmp_path_factory.mktemp("site") / "site"
                build_site(packages(*which), folder, RUNTIME)
                made[which] = (*stack.enter_context(served(folder)), folder)
            return made[which]

        yield site


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A held-out photo and parts of it as files: one as large as the graph."""
    folder, coffee = tmp_path_factory.mktemp("photos"), load_photos("heldout")["coffee"]
    for name, (height, width) in {"coffee": (400, 600), "part": (90, 141), "window": (HEIGHT, WIDTH)}.items():
        top, left = (400 - height) // 2, (600 - width) // 2
        Image.fromarray(coffee[top : top + height, left : left + width]).save(folder / f"{name}.png")
    return folder
