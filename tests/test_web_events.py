"""The page while it is used: one thing at a time, stopped, pasted, looked at, and with a stranger's text in it."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest
from chromium import RUNTIME, served
from PIL import Image
from web_pages import DONE, READY, assert_same_image, click, made_by_run, shown, state, text

from export.web.site import build_site

pytest_plugins = ["web_fixtures"]


def test_what_takes_too_long_is_stopped(browser, sites, photos):
    browser.open(sites("super_resolution", "parts")[0])
    browser.wait(READY)
    browser.choose("#photo", photos / "coffee.png")  # many tiles
    browser.wait("document.body.dataset.state === 'running'")
    click(browser, "stop")
    browser.wait("document.body.dataset.state === 'ready'", 10)
    assert text(browser, "status") == "Stopped."
    click(browser, "tiled", "run")
    browser.wait("document.body.dataset.state === 'done'")


def test_one_thing_is_done_at_a_time(browser, sites, packages, photos, tmp_path):
    """Catches runs that overlap: another photo's tiles in the image, or a run of the photo before."""
    browser.open(sites("super_resolution", "parts")[0])
    browser.wait(READY)
    browser.choose("#photo", photos / "coffee.png")
    browser.wait("document.body.dataset.state === 'running'")
    browser.choose("#photo", photos / "part.png")  # in its place
    click(browser, "run", "another", "run")  # while it is read: nothing to run yet
    browser.wait("document.body.dataset.state === 'done'")
    assert text(browser, "about").startswith("part.png")
    expected = made_by_run(packages("super_resolution", "parts"), tmp_path, photos / "part.png")
    assert_same_image(shown(browser), expected)
    assert browser.download("#download")[0] == "part-0.png"


def test_a_double_click_starts_once(browser, sites, photos):
    """Catches a second click that stops what the first one started."""
    browser.open(sites("super_resolution", "parts")[0])
    browser.choose("#photo", photos / "part.png")
    browser.wait(DONE)
    browser.page.dblclick("#run")
    browser.wait("document.body.dataset.state !== 'running'")
    assert state(browser) == "done" and text(browser, "status").startswith("Done in")


def test_a_photo_is_shown_while_the_model_is_loaded(browser, sites, photos):
    """Catches a page that shows nothing of a photo, or does not stop, before the model is there."""
    held = []
    browser.open(sites("super_resolution", "parts")[0])
    browser.page.route("**/*.wasm", lambda route: held.append(route))
    browser.page.reload()
    browser.choose("#photo", photos / "part.png")
    browser.wait("document.body.dataset.state === 'running'")
    assert np.array_equal(shown(browser, "before")[..., :3], np.asarray(Image.open(photos / "part.png")))
    assert browser.evaluate("view.getBoundingClientRect().height") > 100
    assert text(browser, "status") == "Loading the model"
    click(browser, "stop")
    browser.wait("document.body.dataset.state === 'ready'", 10)
    click(browser, "run")
    browser.wait("document.body.dataset.state === 'running'")
    browser.page.wait_for_timeout(20)  # lets the request come here
    for route in held:
        route.continue_()
    browser.wait("document.body.dataset.state === 'done'")


def test_the_page_reads_and_computes_in_the_other_thread(browser, sites, photos):
    """Catches a page that stands still while a large photo is read: the page itself could not read one."""
    browser.open(sites()[0], first="delete globalThis.createImageBitmap")
    browser.choose("#photo", photos / "window.png")
    browser.wait(DONE)
    assert text(browser, "error") == ""


def test_a_photo_that_is_made_smaller_says_so(browser, sites, photos, tmp_path):
    """Catches "full detail" of a photo that was shrunk when it was read."""
    Image.new("RGB", (3000, 2000), "teal").save(tmp_path / "huge.png")
    browser.open(sites()[0])
    browser.wait(READY)
    click(browser, "tiled")
    browser.choose("#photo", tmp_path / "huge.png")
    browser.wait(DONE)
    said = "huge.png: 2508 × 1672 pixels, made smaller from 3000 × 2000 to fit into this page."
    assert text(browser, "about") == said


PASTED = """
fetch('data:image/png;base64,%s').then((file) => file.arrayBuffer()).then((bytes) => {
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([bytes], 'image.png', { type: 'image/png' }));
  document.dispatchEvent(new ClipboardEvent('paste', { clipboardData }));
})"""


def test_a_photo_is_pasted(browser, sites, photos):
    """Catches a page that takes no image from the clipboard."""
    browser.open((sites()[2] / "from-disk.html").as_uri())  # whose policy lets this test fetch the data
    browser.wait(READY)
    browser.evaluate(PASTED % base64.b64encode((photos / "window.png").read_bytes()).decode())
    browser.wait(DONE)
    assert text(browser, "about") == "image.png: 64 × 48 pixels."
    browser.evaluate("document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: new DataTransfer() }))")
    assert state(browser) == "done" and text(browser, "error") == ""  # a text is no photo


def contrast(colors: list[str]) -> float:
    """WCAG's contrast ratio of two colors, as browsers write them: rgb(1, 2, 3)."""

    def luminance(color: str) -> float:
        shares = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    low, high = sorted(map(luminance, colors))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_what_can_be_used_can_be_seen(browser, sites, photos, dark):
    """Catches borders of controls fainter than 3 : 1 (WCAG 1.4.11), and targets smaller than 24 pixels (2.5.8)."""
    browser.open(sites()[0], dark=dark)
    browser.wait(READY)
    styles = "[page.borderTopColor, getComputedStyle(document.body).backgroundColor]"
    drop = browser.evaluate(f"(page => {styles})(getComputedStyle(document.getElementById('drop')))")
    browser.choose("#photo", photos / "part.png")
    browser.wait(DONE)
    controls = "[...document.querySelectorAll('button, .button, #seed, #tiled')].filter((e) => e.offsetWidth)"
    sizes = browser.evaluate(f"{controls}.map((e) => [e.offsetWidth, e.offsetHeight])")
    assert len(sizes) >= 6 and np.min(sizes) >= 24
    borders = browser.evaluate(
        "[...document.querySelectorAll('button:not(.main), .button:not(.main), #seed')].map(getComputedStyle)"
        f".flatMap((page) => [{styles}, [page.borderTopColor, page.backgroundColor]])"
    )
    assert min(map(contrast, [drop, *borders])) >= 3


INJECTED = """
<script>window.bad = 1</script><img src="data:," onerror="window.bad = 2">
<script src="data:text/javascript,window.bad=3"></script>
<script type="module" src="data:text/javascript,window.bad=4"></script></body>"""


@pytest.mark.parametrize("name", ["index.html", "from-disk.html"])
def test_scripts_in_the_page_s_text_do_not_run(browser, sites, packages, tmp_path, name):
    """Catches a name of a file or a manifest that gets into the page and runs there."""
    sites()
    build_site(packages(), tmp_path / "site", RUNTIME)
    page = tmp_path / "site" / name
    page.write_text(page.read_text().replace("</body>", INJECTED))
    with served(tmp_path / "site") as (address, _):
        browser.open(f"{address}{name}")
        browser.wait(READY)
        assert browser.evaluate("window.bad") is None
    assert "unsafe-inline" not in page.read_text()
