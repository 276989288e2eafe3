"""A browser without a window for the tests of pages, driven over a pipe in Chromium's DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]


def find() -> str | None:
    """The browser's program, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def require(there: object, what: str) -> None:
    """Skip the test where something is not there; in continuous integration it has to be."""
    if not there:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"{what} is missing; make test installs it")


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
def chromium(profile: Path) -> Iterator[Chromium]:
    """A browser with an empty profile."""
    require(find(), "Chromium")
    to_browser, commands = os.pipe()
    answers, from_browser = os.pipe()
    # It reads file descriptor 3 and writes to 4.
    arguments = [f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", find(), *FLAGS, f"--user-data-dir={profile}"]
    log = profile.with_suffix(".log").open("wb")
    process = subprocess.Popen(["bash", "-c", *arguments], pass_fds=(to_browser, from_browser), stdout=log, stderr=log)
    os.close(to_browser)
    os.close(from_browser)
    try:
        yield Chromium(commands, answers)
    finally:
        os.close(commands)
        os.close(answers)
        process.terminate()
        process.wait(timeout=30)
        log.close()


class Chromium:
    """One browser and the page that it shows.

    Attributes:
        events: what it told since the page was opened, in order: {"method", "params"}.
    """

    def __init__(self, commands: int, answers: int):
        self.commands, self.answers = commands, answers
        self.events: list[dict] = []
        self._number, self._session, self._received = 0, None, b""

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
        """Show a page in a tab of its own, in place of the one before.

        Args:
            url: of the page.
            width, height: CSS pixels.
            phone: two pixels a CSS pixel, a finger in place of a mouse.
            dark: what is preferred.
            first: a script that runs before the page's own.
        """
        if self._session is not None:
            self.call("Page.close")
        self._session, self.events = None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        scale = {"deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, **scale)
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.addScriptToEvaluateOnNewDocument", source=first)
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def call(self, method: str, **params) -> dict:
        """A command of the protocol and its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def evaluate(self, script: str):
        """The value of an expression in the page, awaited where it is a promise."""
        said = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, condition: str, seconds: float = 120) -> None:
        """Until an expression is true."""
        until = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < until, f"not within {seconds} s: {condition}; {self.evaluate(SHOWN)!r}"
            time.sleep(0.05)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the mouse at the first point, move it past the others and let go at the last."""
        for kind, (x, y) in (
            ("mousePressed", points[0]),
            *(("mouseMoved", p) for p in points),
            ("mouseReleased", points[-1]),
        ):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if kind == "keyDown" and len(key) == 1 else {}
            code = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35, " ": 32}[
                key
            ]
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, path: Path) -> None:
        """A picture of what is in the window, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _receive(self) -> dict:
        while b"\0" not in self._received:
            assert select.select([self.answers], [], [], 120)[0], "the browser says nothing"
            data = os.read(self.answers, 2**20)
            assert data, "the browser has ended"
            self._received += data
        message, self._received = self._received.split(b"\0", 1)
        return json.loads(message)


SHOWN = "document.body.innerText"
