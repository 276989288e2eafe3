"""The page of an exported package, in a browser: the image of `export.run`; on a phone; from the disk."""

from __future__ import annotations

import io

import numpy as np
import pytest
from chromium import RUNTIME, served
from PIL import Image
from web_pages import DONE, HEIGHT, READY, STEPS, WIDTH, assert_same_image, click, made_by_run, run_again, shown, text

from export.web.site import PROGRAM, SCRIPT, build_site

pytest_plugins = ["web_fixtures"]


# --- images


@pytest.mark.parametrize("layout", ["whole", "parts"])
@pytest.mark.parametrize("name, seed", [("window", 0), ("coffee", 2**40 + 3)])
def test_a_photo_becomes_what_export_run_makes_of_it(browser, sites, packages, photos, tmp_path, layout, name, seed):
    browser.open(sites("super_resolution", layout)[0])
    browser.evaluate(f"document.getElementById('seed').value = '{seed}'")
    browser.choose("#photo", photos / f"{name}.png")  # while the model is being loaded
    browser.wait(DONE)
    expected = made_by_run(packages("super_resolution", layout), tmp_path, photos / f"{name}.png", "--seed", seed)
    assert_same_image(shown(browser), expected)
    assert np.array_equal(shown(browser, "before")[..., :3], np.asarray(Image.open(photos / f"{name}.png")))
    file_name, content = browser.download("#download")
    assert file_name == f"{name}-{seed}.png"
    assert_same_image(np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")), expected)
    assert browser.evaluate("document.getElementById('status').textContent").startswith("Done in")


@pytest.mark.parametrize("layout", ["parts", "whole"])
def test_large_photos_are_made_in_tiles(browser, sites, packages, photos, tmp_path, layout):
    """Catches a blur under "becomes clear", a label that names another size, and tiles that are not export.run's."""
    browser.open(sites("super_resolution", layout)[0])
    browser.wait(READY)
    browser.choose("#photo", photos / "part.png")
    browser.wait(DONE)
    assert text(browser, "about") == "part.png: 141 × 90 pixels."
    assert text(browser, "full") == "Full detail: 141 × 90, in 9 tiles (slower)"
    assert " s, in 9 tiles" in text(browser, "status")
    options = [packages("super_resolution", layout), tmp_path, photos / "part.png"]
    assert_same_image(shown(browser), made_by_run(*options))
    click(browser, "tiled")
    run_again(browser)
    assert text(browser, "status").endswith(", at 64 × 41 and enlarged: tick “Full detail” for more detail.")
    assert_same_image(shown(browser), made_by_run(*options, "--no-tile"))


@pytest.mark.slow
def test_a_condition_counts_as_often_as_the_page_says(browser, sites, packages, photos, tmp_path):
    """Catches a slider that moves nothing, and one where the package cannot follow."""
    browser.open(sites("super_resolution", "parts")[0])
    browser.evaluate("scale.value = 0.3; scale.dispatchEvent(new Event('input'))")
    browser.choose("#photo", photos / "window.png")
    browser.wait(DONE)
    assert text(browser, "times") == "× 0.3"
    options = [packages("super_resolution", "parts"), tmp_path, photos / "window.png"]
    assert_same_image(shown(browser), made_by_run(*options, "--condition-scale", 0.3))
    assert np.abs(made_by_run(*options).astype(float) - shown(browser)[..., :3]).max() > 2
    browser.open(sites("super_resolution", "whole")[0])
    browser.wait(READY)
    assert browser.evaluate("weigh.hidden")


def test_the_steps_appear(browser, sites, photos):
    browser.open(sites("super_resolution", "parts")[0])
    browser.wait(READY)
    browser.evaluate(
        "window.said = []; new MutationObserver(() => said.push(document.getElementById('status').textContent))"
        ".observe(document.getElementById('status'), {childList: true})"
    )
    browser.choose("#photo", photos / "window.png")
    browser.wait(DONE)
    said = [line for line in browser.evaluate("said") if line.startswith("Step")]
    assert said == [f"Step {step + 1} of {STEPS}" for step in range(STEPS)]
    last, images = shown(browser), []
    for step in range(STEPS):
        browser.evaluate(f"document.querySelectorAll('#steps button')[{step}].click()")
        images.append(shown(browser))
        pressed = browser.evaluate("[...document.querySelectorAll('#steps button')].map((b) => b.ariaPressed)")
        assert pressed == ["true" if step == i else "false" for i in range(STEPS)]
    np.testing.assert_array_equal(images[-1], last)
    assert browser.download("#download")[0] == "window-0.png"
    browser.evaluate("document.querySelector('#steps button').click()")
    name, content = browser.download("#download")  # what is shown
    assert name == "window-0-step1.png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")), images[0])
    assert all(np.abs(a.astype(float) - b).mean() > 0.5 for a, b in zip(images, images[1:], strict=False))


@pytest.mark.parametrize("layout", ["whole", pytest.param("parts", marks=pytest.mark.slow)])
def test_what_is_painted_is_filled_in(browser, sites, packages, photos, tmp_path, layout):
    browser.open(sites("inpainting", layout)[0])
    browser.choose("#photo", photos / "coffee.png")
    browser.wait("document.body.dataset.state === 'ready'")
    browser.evaluate("document.getElementById('run').click()")
    assert "Nothing is marked yet" in text(browser, "error")
    box = browser.evaluate("(({x, y, width, height}) => [x, y, width, height])(view.getBoundingClientRect())")
    places = [(box[0] + x * box[2], box[1] + y * box[3]) for x, y in ((0.2, 0.3), (0.5, 0.35), (0.6, 0.7))]
    browser.drag(*places)
    assert text(browser, "error") == ""
    browser.drag((box[0] + 0.1 * box[2], box[1] + 0.1 * box[3]))  # is taken back
    browser.evaluate("document.getElementById('undo').click(); document.getElementById('mask').focus()")
    for key in [*["ArrowLeft"] * 6, "ArrowDown", " "]:  # half a brush each, from the middle
        browser.press(key)
    browser.evaluate("document.getElementById('run').click()")
    browser.wait(DONE)
    assert browser.evaluate("getComputedStyle(view).getPropertyValue('--split')") == "0%"  # all of the edit is seen
    mask = shown(browser, "mask")[..., 3] >= 128
    height, width = mask.shape
    assert mask[int(0.35 * height), int(0.5 * width)] and not mask[: height // 6].any() and 0.05 < mask.mean() < 0.4
    assert mask[height // 2 + 36, width // 2 - 6 * 36]  # a brush is 12 percent of the longer side
    Image.fromarray((255 * mask).astype(np.uint8)).save(tmp_path / "mask.png")
    photo = photos / "coffee.png"
    expected = made_by_run(packages("inpainting", layout), tmp_path, photo, "--mask", tmp_path / "mask.png")
    found = shown(browser)
    assert_same_image(found, expected)
    np.testing.assert_array_equal(found[~mask][:, :3], np.asarray(Image.open(photo))[~mask])


@pytest.mark.slow
def test_a_depth_map_becomes_an_image(browser, sites, packages, tmp_path):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    gray = np.uint8(40 + 2 * y + 10 * ((x - 30) ** 2 + (y - 20) ** 2 < 150))
    Image.fromarray(gray).save(tmp_path / "map.png")
    browser.open(sites("depth")[0])
    browser.choose("#photo", tmp_path / "map.png")
    browser.wait(DONE)
    assert_same_image(shown(browser), made_by_run(packages("depth"), tmp_path, tmp_path / "map.png"))


def write(browser, prompt: str) -> None:
    """Write a prompt in place of the one before, then press enter."""
    browser.write("#prompt", prompt)


@pytest.mark.parametrize("layout", [pytest.param("whole", marks=pytest.mark.slow), "parts"])
def test_a_prompt_says_what_becomes_of_a_photo(browser, sites, packages, photos, tmp_path, layout):
    browser.open(sites("editing", layout)[0])
    browser.choose("#photo", photos / "part.png")
    browser.wait("document.body.dataset.state === 'ready'")  # for the prompt
    assert browser.evaluate("document.getElementById('error').textContent") == ""
    assert "as the prompt says" in browser.evaluate("document.getElementById('lede').textContent")
    images = []
    assert browser.evaluate("document.getElementById('large').hidden")  # the task needs the whole photo
    assert "It is seen as a whole, at 64 × 41" in text(browser, "about")
    for prompt in ("make it night", "invert — the “Colors”!"):
        write(browser, prompt)  # at once it is running
        browser.wait(DONE)
        images.append(shown(browser))
        photo = photos / "part.png"
        expected = made_by_run(packages("editing", layout), tmp_path, photo, "--prompt", prompt)
        assert_same_image(images[-1], expected)
        assert browser.evaluate("getComputedStyle(view).getPropertyValue('--split')") == "0%"
    assert np.abs(images[0].astype(float) - images[1]).max() > 2


def test_a_prompt_that_is_there_before_the_photo(browser, sites, packages, photos, tmp_path):
    """Of one that is too long, what is left out is told."""
    prompt = "x " * 75 + "and Snow"
    browser.open(sites("editing", "parts")[0])
    browser.wait(READY)
    write(browser, prompt)
    browser.choose("#photo", photos / "window.png")
    browser.wait(DONE)
    with pytest.warns(UserWarning, match="cut off 'and snow'"):
        expected = made_by_run(packages("editing", "parts"), tmp_path, photos / "window.png", "--prompt", prompt)
    assert_same_image(shown(browser), expected)
    said = browser.evaluate("document.getElementById('status').textContent")
    assert said.endswith("The prompt was too long: “and snow” was left out.")


def test_a_prompted_page_opened_from_the_disk(browser, sites, packages, photos, tmp_path):
    browser.open((sites("editing", "parts")[2] / "from-disk.html").as_uri())
    browser.wait(READY)
    write(browser, "make it night")
    browser.choose("#photo", photos / "window.png")
    browser.wait(DONE)
    photo = photos / "window.png"
    expected = made_by_run(packages("editing", "parts"), tmp_path, photo, "--prompt", "make it night")
    assert_same_image(shown(browser), expected)


def test_opened_from_the_disk(browser, sites, packages, photos, tmp_path):
    browser.open(f"{(sites()[2] / 'index.html').as_uri()}")
    browser.wait(f"location.pathname.endsWith('from-disk.html') && {READY}")
    browser.choose("#photo", photos / "coffee.png")
    browser.wait(DONE)
    assert_same_image(shown(browser), made_by_run(packages(), tmp_path, photos / "coffee.png"))


def test_nothing_leaves_the_device(browser, sites, photos, tmp_path):
    """The page asks its own server for its own files, and may ask nobody else."""
    address, requests, folder = sites()
    requests.clear()
    browser.open(address)
    browser.choose("#photo", photos / "window.png")
    browser.wait(DONE)
    asked = list(browser.requests)
    assert asked and all(url.startswith((address, "data:", "blob:")) for url in asked)
    assert all(line.startswith('"GET /') for line in requests)
    assert {line.split()[1][1:] or "index.html" for line in requests} <= {
        path.relative_to(folder).as_posix() for path in folder.rglob("*")
    }
    with served(tmp_path) as (elsewhere, heard):
        said = browser.evaluate(f"fetch('{elsewhere}', {{mode: 'no-cors'}}).then(() => 'sent', () => 'refused')")
    assert said == "refused" and not heard


# --- the page


def test_a_line_between_before_and_after(browser, sites, photos):
    """Keys and pointer move it; what is left of it is shown as before."""
    browser.open(sites()[0])
    browser.choose("#photo", photos / "window.png")
    browser.wait(DONE)
    split = "parseFloat(getComputedStyle(view).getPropertyValue('--split'))"
    assert browser.evaluate(split) == 50
    browser.evaluate("document.getElementById('split').focus()")
    browser.press("ArrowRight")
    assert 50 < browser.evaluate(split) < 70
    browser.press("Home")
    assert browser.evaluate(split) == 0
    x, y, width, height = browser.evaluate(
        "(({x, y, width, height}) => [x, y, width, height])(view.getBoundingClientRect())"
    )
    browser.drag((x + 0.5 * width, y + 0.5 * height), (x + 0.25 * width, y + 0.9 * height))
    assert abs(browser.evaluate(split) - 25) < 0.5
    assert browser.evaluate("getComputedStyle(after).clipPath") == "inset(0px 0px 0px 25%)"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("task, layout", [("super_resolution", "parts"), ("inpainting", "whole"), ("editing", "parts")])
def test_it_fits_a_phone(browser, sites, photos, tmp_path, task, layout, dark):
    def check(state: str) -> None:
        assert browser.evaluate("document.body.dataset.state") == state
        assert browser.evaluate("document.scrollingElement.scrollWidth") == 360
        assert browser.evaluate(
            "[...document.querySelectorAll('body *')].every((e) => e.getBoundingClientRect().right <= 360)"
        )
        browser.screenshot(tmp_path / f"{state}.png")
        image = np.asarray(Image.open(tmp_path / f"{state}.png").convert("L"))
        assert image.shape == (1480, 720) and image.std() > 5
        assert (np.median(image) < 60) == dark

    browser.open(sites(task, layout)[0], 360, 740, phone=True, dark=dark)
    browser.wait(READY)
    check("empty")
    browser.choose("#photo", photos / "coffee.png")
    if task == "inpainting":
        browser.wait("document.body.dataset.state === 'ready'")
        check("ready")
        browser.evaluate("document.getElementById('mask').focus()")
        browser.press(" ")
        browser.evaluate("document.getElementById('run').click()")
    if task == "editing":
        browser.wait("document.body.dataset.state === 'ready'")
        check("ready")
        write(browser, 30 * "night" + " and snow")  # of which half is too long
    browser.wait(DONE)
    check("done")


@pytest.mark.parametrize(
    "task, layout, wanted",
    [("inpainting", "whole", {"Undo", "Clear", "Fill in"}), ("editing", "parts", {"Prompt", "Run"})],
)
def test_what_can_be_reached_has_a_name(browser, sites, photos, task, layout, wanted):
    browser.open(sites(task, layout)[0])
    browser.choose("#photo", photos / "window.png")
    browser.wait("document.body.dataset.state === 'ready'")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    values = [{p["name"]: p["value"].get("value") for p in node.get("properties", ())} for node in nodes]
    names = [node["name"]["value"] for node, value in zip(nodes, values, strict=True) if value.get("focusable")]
    assert len(names) >= 6 and all(names)
    assert wanted | {"Seed", "Another", "Choose a photo"} <= set(names)
    assert ("Prompt" in names) == (task == "editing")


# --- mistakes, in one line


def error(browser) -> str:
    browser.wait("document.getElementById('error').textContent")
    return browser.evaluate("document.getElementById('error').innerText")


def test_a_file_that_is_no_image(browser, sites, photos, tmp_path):
    (tmp_path / "notes.png").write_bytes(b"no image")
    browser.open(sites()[0])
    browser.wait(READY)
    browser.choose("#photo", tmp_path / "notes.png")
    assert error(browser) == "notes.png is not an image this browser can read: choose a PNG, JPEG or WebP file."
    browser.choose("#photo", photos / "window.png")  # and the next one is taken
    browser.wait("document.body.dataset.state === 'done'")
    assert browser.evaluate("document.getElementById('error').textContent") == ""


def test_a_seed_that_is_none(browser, sites, photos):
    browser.open(sites()[0])
    browser.evaluate("document.getElementById('seed').value = '-1'")
    browser.choose("#photo", photos / "window.png")
    assert error(browser) == "The seed is “-1”: it must be a whole number from 0 to 2^63 - 1."
    browser.write("#seed", " 7 ")
    browser.wait("document.body.dataset.state === 'done'")
    assert text(browser, "error") == "" and browser.download("#download")[0] == "window-7.png"


@pytest.mark.parametrize("prompt", ["", "  "])
def test_a_prompt_that_is_missing(browser, sites, photos, prompt):
    browser.open(sites("editing", "parts")[0])
    browser.choose("#photo", photos / "window.png")
    browser.wait("document.body.dataset.state === 'ready'")
    write(browser, prompt)
    assert error(browser) == "The prompt is missing: write what is to be done."
    assert browser.evaluate("document.body.dataset.state") == "ready"
    write(browser, "make it night")
    browser.wait("document.body.dataset.state === 'done'")
    assert browser.evaluate("document.getElementById('error').textContent") == ""


def test_a_file_that_is_missing(browser, packages, sites, tmp_path):
    sites()
    build_site(packages(), tmp_path / "site", RUNTIME)
    (tmp_path / "site" / "package" / "model.onnx").unlink()
    with served(tmp_path / "site") as (address, _):
        browser.open(address)
        said = error(browser)
    assert said == "package/model.onnx cannot be read: copy the whole folder of this page again."


def test_a_browser_without_webassembly(browser, sites):
    browser.open(sites()[0], first="delete globalThis.WebAssembly")
    assert error(browser) == "This browser has no WebAssembly: use another one."


@pytest.fixture
def runtime(tmp_path):
    """Files with the runtime's names."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in (SCRIPT, PROGRAM):
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_page_that_finds_no_files_says_so(browser, packages, runtime, tmp_path, monkeypatch):
    """Opened from the disk, where it is too large for one file."""
    monkeypatch.setattr("export.web.site.MAX_ALONE", 0)
    build_site(packages(), tmp_path / "site", runtime)
    browser.open((tmp_path / "site" / "index.html").as_uri())
    browser.wait("document.body.innerText.includes('it cannot load its model: serve its folder')")
