"""Packages for pages, and what a page shows."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

import numpy as np
from conftest import make_base, make_model
from PIL import Image
from tiny import randomize, tiny_text

from codi_tf.checkpoints.stable_diffusion import with_text
from export.build import write_package
from export.emit.program import SamplerProgram
from export.runtime import run

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
    """The image of `python -m export.run`."""
    out = folder / "out.png"
    run.main([str(package), "--condition", str(photo), "--out", str(out), *map(str, options)])
    return np.asarray(Image.open(out))


def assert_same_image(found: np.ndarray, expected: np.ndarray) -> None:
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
    click(browser, "run")  # it is running at once
    browser.wait(DONE)
