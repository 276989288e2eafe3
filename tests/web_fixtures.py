"""Fixtures of the tests of pages: `pytest_plugins = ["web_fixtures"]`."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from chromium import RUNTIME, chromium, require, served
from PIL import Image
from web_pages import HEIGHT, WIDTH, package_maker

from codi_tf.data import load_photos
from export.web.site import build_site


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
