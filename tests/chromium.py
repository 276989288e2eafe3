"""Chromium without a window for the tests of pages, driven by Playwright."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
GPU_FLAGS = [flag for flag in FLAGS if flag != "--disable-gpu"]
GPU_FLAGS += ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]  # WebGPU, computed by the processor
LIMIT = 120  # seconds
MODULES = Path(__file__).parents[1] / "node_modules"
RUNTIME = MODULES / "onnxruntime-web" / "dist"
CHECKER = MODULES / "accessibility-checker-engine" / "ace.js"


def find() -> str | None:
    """The system's browser, None where there is none. Playwright's own are never downloaded."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def missing() -> list[str]:
    """What the tests of web pages need and this machine lacks."""
    found = {"Chromium": find(), "onnxruntime-web": RUNTIME.is_dir(), CHECKER.parent.name: CHECKER.is_file()}
    return [name for name, there in found.items() if not there]


def require(what: str) -> None:
    """Skip the test where something is not installed; in continuous integration, fail."""
    if what in missing():
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"{what} is missing; make setup installs it")


@contextlib.contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A folder behind http.server: its address, and the lines of the requests that came."""
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form: str, *values) -> None:
            requests.append(form % values)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", requests
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def chromium(flags: list[str] = FLAGS) -> Iterator[Chromium]:
    """A browser with an empty profile."""
    from playwright.sync_api import sync_playwright

    require("Chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find(), args=flags)
        try:
            yield Chromium(browser)
        finally:
            browser.close()


class Chromium:
    """One browser and the page that it shows.

    Attributes:
        page: Playwright's, of the last `open`.
        requests: the addresses that the page asked for since it was opened, in order.
    """

    def __init__(self, browser):
        self._browser = browser
        self._context = self.page = None
        self.requests: list[str] = []

    def open(
        self,
        url: str,
        width: int = 1280,
        height: int = 800,
        *,
        phone: bool = False,
        dark: bool = False,
        first: str = "",
    ) -> None:
        """Show a page in place of the one before.

        Args:
            url: of the page.
            width, height: CSS pixels.
            phone: two pixels a CSS pixel, a finger in place of a mouse.
            dark: the color scheme that is preferred.
            first: a script that runs before the page's own.
        """
        if self._context is not None:
            self._context.close()
        self._context = self._browser.new_context(
            viewport={"width": width, "height": height},
            device_scale_factor=2 if phone else 1,
            is_mobile=phone,
            has_touch=phone,
            color_scheme="dark" if dark else "light",
        )
        self._context.set_default_timeout(1000 * LIMIT)
        self._context.add_init_script(first)
        self.requests = requests = []
        self._context.on("request", lambda request: requests.append(request.url))
        self.page = self._context.new_page()
        self.page.goto(url)

    def has_webgpu(self) -> bool:
        """Whether pages of this browser can compute with WebGPU."""
        with served(MODULES) as (address, _):  # it is there for secure origins alone
            self.open(address)
            return self.evaluate("navigator.gpu?.requestAdapter().then(Boolean, () => false) ?? false")

    def call(self, method: str, **params) -> dict:
        """A command of the DevTools protocol and its answer."""
        return self._context.new_cdp_session(self.page).send(method, params)

    def evaluate(self, script: str):
        """The value of an expression in the page, awaited where it is a promise."""
        return self.page.evaluate(script)

    def wait(self, condition: str, seconds: float = LIMIT) -> None:
        """Until an expression is true."""
        # Not by Playwright's wait_for_function: the page's security policy forbids what it does.
        until = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < until, f"not within {seconds} s: {condition}; {self.page.inner_text('body')!r}"
            self.page.wait_for_timeout(20)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        self.page.set_input_files(selector, path)

    def write(self, selector: str, text: str) -> None:
        """Replace the text of a field by the keyboard, then press enter."""
        self.page.locator(selector).select_text()
        self.page.keyboard.insert_text(text)
        self.page.keyboard.press("Enter")

    def download(self, selector: str) -> tuple[str, bytes]:
        """Click an element that saves a file: its name and content."""
        with self.page.expect_download() as download:
            self.page.click(selector)
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the mouse at the first point, move it past the others and let go at the last."""
        mouse = self.page.mouse
        mouse.move(*points[0])
        mouse.down()
        for point in points:
            mouse.move(*point)
        mouse.up()

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        self.page.keyboard.press("Space" if key == " " else key)

    def screenshot(self, path: Path) -> None:
        """What is in the window, as PNG."""
        self.page.screenshot(path=path)
