"""The page as an app: without a network, replaced as a whole, shared to; its samples, threads and accessibility."""

from __future__ import annotations

import json

import numpy as np
import pytest
from chromium import CHECKER, RUNTIME, require, served
from PIL import Image
from web_pages import DONE, READY, assert_same_image, made_by_run, run_again, shown, text

from export.web.site import build_site

pytest_plugins = ["web_fixtures"]
KEPT = "document.getElementById('facts').textContent.includes('the page works without a network')"


@pytest.fixture
def own_site(packages, tmp_path):
    """A page of its own for a test, which may change it: its folder."""
    require("onnxruntime-web")
    build_site(packages("super_resolution", "parts"), tmp_path / "site", RUNTIME)
    return tmp_path / "site"


def test_it_works_without_a_network(browser, own_site, packages, photos, tmp_path):
    """Catches a file that is not kept: the server is gone, and the page makes an image all the same."""
    with served(own_site) as (address, _):
        browser.open(address)
        browser.wait(KEPT)
    browser.page.context.set_offline(True)
    browser.page.reload()
    browser.wait(READY)
    browser.choose("#photo", photos / "window.png")
    browser.wait(DONE)
    expected = made_by_run(packages("super_resolution", "parts"), tmp_path, photos / "window.png")
    assert_same_image(shown(browser), expected)
    assert browser.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")


@pytest.mark.slow
def test_a_new_version_replaces_all_of_the_page(browser, own_site, packages):
    """Catches a page of two versions: the older one stays whole until the new one is there, and then goes whole."""
    version = "document.querySelector('meta[name=version]').content"
    names = "caches.open((await caches.keys())[0]).then((c) => c.keys()).then((l) => l.map((r) => r.url).join(' '))"
    with served(own_site) as (address, _):
        browser.open(address)
        browser.wait(KEPT)
        before = browser.evaluate(version)
        build_site(packages("inpainting", "whole"), own_site, RUNTIME)
        browser.page.reload()
        browser.wait(READY)
        assert browser.evaluate(version) == before and text(browser, "title") == "Restore a photo"
        browser.wait("!document.getElementById('news').hidden")
        with browser.page.expect_navigation():
            browser.page.click("#update")
        browser.wait(f"{READY} && {KEPT}")
        assert browser.evaluate(version) != before and text(browser, "title") == "Fill in a photo"
        kept = browser.evaluate(f"(async () => [(await caches.keys()).length, await {names}])()")
    assert kept[0] == 1 and "package/model.onnx" in kept[1] and "package/step.onnx" not in kept[1]


@pytest.mark.slow
def test_a_version_that_does_not_arrive_whole_is_not_taken(browser, own_site, packages):
    """Catches a service worker that mixes files: one was changed on the way, so the older version stays."""
    with served(own_site) as (address, _):
        browser.open(address)
        browser.wait(KEPT)
        build_site(packages("inpainting", "whole"), own_site, RUNTIME)
        (own_site / "tasks.js").write_text("// of another version\n" + (own_site / "tasks.js").read_text())
        browser.evaluate("navigator.serviceWorker.getRegistration().then((it) => it.update()).catch(() => {})")
        browser.wait("navigator.serviceWorker.getRegistration().then((it) => !it.installing && !it.waiting)")
        browser.page.reload()
        browser.wait(READY)
        assert text(browser, "title") == "Restore a photo"
        assert browser.evaluate("document.getElementById('news').hidden")


@pytest.mark.slow
def test_a_photo_from_another_app(browser, own_site, packages, photos, tmp_path):
    """Catches a share target that the manifest names and nobody answers."""
    share = json.loads((own_site / "app.json").read_text())["share_target"]
    field = share["params"]["files"][0]["name"]
    form = f'<form method="{share["method"]}" enctype="{share["enctype"]}" action="{share["action"]}">'
    (own_site / "other.html").write_text(f'<!doctype html>{form}<input type="file" name="{field}"><button>')
    with served(own_site) as (address, _):
        browser.open(address)
        browser.wait(KEPT)
        browser.page.goto(f"{address}other.html")
        browser.choose("input", photos / "window.png")
        with browser.page.expect_navigation():
            browser.page.click("button")
        browser.wait(DONE)
        assert text(browser, "about") == "window.png: 64 × 48 pixels."
        assert browser.evaluate("location.href") == address
        assert_same_image(
            shown(browser), made_by_run(packages("super_resolution", "parts"), tmp_path, photos / "window.png")
        )
        browser.page.reload()
        browser.wait(READY)  # it is shared once


def test_browsers_can_install_it(browser, sites):
    """Catches a manifest that a browser reads no app from, and icons of other sizes than it names."""
    address, _, folder = sites("super_resolution", "parts")
    browser.open(address)
    browser.wait(KEPT)
    assert browser.call("Page.getAppManifest")["errors"] == []
    problems = [each["errorId"] for each in browser.call("Page.getInstallabilityErrors")["installabilityErrors"]]
    assert set(problems) <= {"in-incognito"}  # as Playwright's windows are
    for icon in json.loads((folder / "app.json").read_text())["icons"]:
        assert "x".join(map(str, Image.open(folder / icon["src"]).size)) == icon["sizes"]


@pytest.mark.parametrize(
    "task, layout",
    [
        ("inpainting", "whole"),
        pytest.param("editing", "parts", marks=pytest.mark.slow),
        pytest.param("depth", "parts", marks=pytest.mark.slow),
    ],
)
def test_samples_show_what_the_model_makes(browser, sites, packages, tmp_path, task, layout):
    """Catches a sample that the page makes otherwise than it shows it: another mask, prompt, seed or image."""
    address, _, folder = sites(task, layout)
    browser.open(address)
    browser.wait(READY)
    browser.evaluate("document.querySelectorAll('#sheet button')[1].click()")
    browser.wait(DONE)
    assert "Made with seed 0 when this page was built" in text(browser, "status")
    before = shown(browser)
    sample = folder / "samples" / "sample-2.png"
    prompt = browser.evaluate("document.getElementById('prompt').value")
    options = ["--prompt", prompt] if task == "editing" else []
    options += ["--mask", sample.with_name("sample-2.mask.png")] if task == "inpainting" else []
    assert_same_image(before, made_by_run(packages(task, layout), tmp_path, sample, *options))
    run_again(browser)
    assert text(browser, "status").startswith("Done in")
    assert_same_image(shown(browser), before[..., :3])


def test_samples_are_there_before_the_model(browser, sites):
    """Catches samples that wait for the model."""
    held = []
    browser.open(sites("super_resolution", "parts")[0])
    browser.page.context.clear_cookies()
    browser.page.route("**/*.wasm", lambda route: held.append(route))
    browser.evaluate("navigator.serviceWorker.getRegistration().then((it) => it?.unregister())")
    browser.page.reload()
    browser.evaluate("document.querySelector('#sheet button').click()")
    browser.wait("document.body.dataset.state === 'done'")
    assert shown(browser)[..., :3].std() > 5 and held


@pytest.mark.slow
def test_tiles_are_made_at_once(browser, sites, photos):
    """Catches a pool that makes other images, and one of a single thread."""
    browser.open(sites("super_resolution", "parts")[0])
    browser.wait(READY)
    browser.choose("#photo", photos / "part.png")
    browser.wait(DONE)
    threads = min(4, browser.evaluate("navigator.hardwareConcurrency"))
    assert text(browser, "status").endswith(f" s, in 9 tiles, {threads} at a time." if threads > 1 else " in 9 tiles.")
    together = shown(browser)
    browser.page.route(
        "**/pool.js",
        lambda route: route.fulfill(
            body=route.fetch().text().replace("const MOST = 4", "const MOST = 1"), content_type="text/javascript"
        ),
    )
    browser.evaluate("navigator.serviceWorker.getRegistration().then((it) => it?.unregister())")
    browser.page.reload()
    browser.wait(READY)
    browser.choose("#photo", photos / "part.png")
    browser.wait(DONE)
    assert text(browser, "status").endswith(" s, in 9 tiles.")
    np.testing.assert_array_equal(shown(browser), together)


# --- accessibility

FINDINGS = """
(async () => (await new ace.Checker().check(document, ["WCAG_2_2"])).results
  .filter(({ value }) => value[1] === "FAIL")
  .map(({ ruleId, message, snippet }) => `${ruleId}: ${message} ${snippet}`))()"""


@pytest.mark.parametrize(
    "task, layout, phone",
    [
        ("inpainting", "whole", False),
        ("inpainting", "whole", True),
        pytest.param("editing", "parts", False, marks=pytest.mark.slow),
        pytest.param("editing", "parts", True, marks=pytest.mark.slow),
    ],
)
def test_a_checker_finds_nothing(browser, sites, photos, task, layout, phone):
    """Catches what IBM's accessibility checker calls a failure of WCAG 2.2, and errors in the console."""
    require("accessibility-checker-engine")
    said = []
    size = (360, 740) if phone else (1280, 800)
    browser.open("about:blank", *size, phone=phone, dark=phone)
    browser.page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    browser.page.on("pageerror", lambda error: said.append(str(error)))
    browser.page.emulate_media(reduced_motion="reduce")  # nothing is looked at while it fades in
    browser.page.goto(sites(task, layout)[0])
    browser.wait(READY)
    browser.evaluate(f"{CHECKER.read_text()}; window.ace = ace;")
    assert browser.evaluate(FINDINGS) == []
    browser.choose("#photo", photos / "coffee.png")
    browser.wait("document.body.dataset.state === 'ready'")
    assert browser.evaluate(FINDINGS) == []
    browser.evaluate("document.querySelector('#sheet button').click()")
    browser.wait("document.body.dataset.state === 'done'")
    run_again(browser)
    assert browser.evaluate(FINDINGS) == []
    assert said == []
    browser.evaluate("document.querySelector('.pair img').removeAttribute('alt')")
    assert len(browser.evaluate(FINDINGS)) == 1  # it looks
