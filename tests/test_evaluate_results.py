"""Folders beside bundles: pairs LOW:HIGH as data, and images of other methods, matched by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_base, make_model
from PIL import Image

from codi_tf import data
from codi_tf.cli.evaluate import main
from codi_tf.cli.evaluate_inputs import inputs_of
from codi_tf.cli.evaluate_options import parse
from codi_tf.core.errors import UserError
from codi_tf.evaluation.results import read_results
from codi_tf.io.images import resize, write_png
from codi_tf.io.places import folder_pair
from codi_tf.tasks import make_task

S, N = 16, 4
NAMES = [f"photo.{i}" for i in range(N)]  # names have dots


def originals(height: int = S, width: int = S) -> np.ndarray:
    """Smooth images, uint8 [N, H, W, 3]."""
    random = np.random.default_rng(0)
    return np.stack([np.rint(255 * resize(random.random((4, 4, 3)), height, width)) for _ in range(N)]).astype("uint8")


def shrunk(image: np.ndarray, scale: int = 4) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((image.shape[1] // scale, image.shape[0] // scale)))


def write(folder, images, extension: str = ".png") -> str:
    for name, image in zip(NAMES, images, strict=True):
        write_png(folder / f"{name}.png", image)
        (folder / f"{name}.png").rename(folder / f"{name}{extension}")
    return str(folder)


@pytest.fixture
def pair(tmp_path):
    """LOW:HIGH of super-resolution, as text."""
    x = originals()
    low = write(tmp_path / "low", [shrunk(one) for one in x], ".jpg")  # PNG inside: names do not say the format
    return f"{low}:{write(tmp_path / 'high', x)}"


def signed(image: np.ndarray) -> np.ndarray:
    return image / np.float32(127.5) - 1


# --- pairs of folders


def test_which_texts_are_pairs_of_folders(tmp_path, monkeypatch):
    """Two folders, of which one may be missing; no data set, and nothing that exists as it is written."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "a:c", "d"):
        (tmp_path / name).mkdir()
    assert folder_pair("a:b") == ("a", "b") and folder_pair("a:none") == ("a", "none")
    assert folder_pair("a:c:d") == ("a:c", "d")  # the parting of which most is there
    for other in ("a", "a:c", "scenes:unseen", "tfds:a:b", "none:nothing", "a b", "photos"):
        assert folder_pair(other) is None
    with pytest.raises(UserError, match="a:b holds pairs, for task pairs and to .*, name b"):
        data.load_source("a:b", None)


def test_a_pair_of_super_resolution(pair):
    """Small images are enlarged as those of codi pairs; images that are large already stay as they are."""
    task = make_task("super_resolution")
    low, high = folder_pair(pair)
    examples, names = data.read_folder_pair(low, high, task, 3)
    assert names == NAMES[:3] and set(examples) == {"image", "condition"}
    np.testing.assert_allclose(examples["image"], signed(originals()[:3]), atol=1e-6)
    enlarged = [2 * resize(shrunk(x) / np.float32(255), S, S) - 1 for x in originals()[:3]]
    np.testing.assert_allclose(examples["condition"], enlarged, atol=1e-6)
    same, _ = data.read_folder_pair(high, high, task, N)
    np.testing.assert_array_equal(same["condition"], same["image"])


def test_a_pair_with_masks_and_one_with_depth_and_one_with_prompts(tmp_path):
    """What a user would give to each task's model: NAME.mask.png, maps, and texts beside the originals."""
    x = originals(S, 24)  # not square
    high, low = write(tmp_path / "high", x), write(tmp_path / "low", x)
    mask = np.zeros((S, 24), np.uint8)
    mask[4:9, 3:] = 255
    for name in NAMES:
        Image.fromarray(mask).save(tmp_path / "low" / f"{name}.mask.png")
    examples, _ = data.read_folder_pair(low, high, make_task("inpainting"), N)
    unknown = np.broadcast_to(mask[..., None] > 0, x.shape)
    np.testing.assert_array_equal(examples["condition"][..., 3:] > 0, unknown[..., :1])
    np.testing.assert_allclose(examples["condition"][..., :3], np.where(unknown, 0, signed(x)), atol=1e-6)

    near = np.linspace(1000, 60000, S * 24).reshape(S, 24).astype(np.uint16)
    for name in NAMES:
        (tmp_path / "maps").mkdir(exist_ok=True)
        Image.fromarray(near).save(tmp_path / "maps" / f"{name}.depth.png")
    examples, _ = data.read_folder_pair(str(tmp_path / "maps"), high, make_task("depth"), N)
    ramp = 2 * (near - 1000.0) / 59000 - 1
    np.testing.assert_allclose(examples["condition"], np.broadcast_to(ramp[..., None], x.shape), atol=1e-4)

    for name in NAMES:
        (tmp_path / "high" / f"{name}.txt").write_text(f"change {name}\n")
    examples, _ = data.read_folder_pair(low, high, make_task("editing"), N)
    assert list(examples["prompt"]) == [f"change {name}" for name in NAMES]
    np.testing.assert_allclose(examples["condition"], signed(x), atol=1e-6)
    (tmp_path / "high" / f"{NAMES[1]}.txt").unlink()
    assert "prompt" not in data.read_folder_pair(low, high, make_task("editing"), N)[0]


def test_pairs_that_do_not_match_are_one_line(tmp_path, pair):
    low, high = folder_pair(pair)
    task = make_task("super_resolution")

    def refusal(low=low, high=high, task=task, count=N) -> str:
        with pytest.raises(UserError) as caught:
            data.read_folder_pair(low, high, task, count)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert refusal(count=5) == f"{low}:{high} are 4 pairs, not 5; ask for fewer"
    assert refusal(low="none") == "no such folder of images: none"
    assert "its original is 16x16; it must be 8x8 or 16x16" in refusal(task=make_task("bicubic", scale=2))
    assert "4x4, but its original is 16x16; it must be 16x16" in refusal(task=make_task("editing"))
    assert "a mask is missing" in refusal(low=high, task=make_task("inpainting"))
    write_png(tmp_path / "high" / "other.png", originals()[0])
    assert f"{low} has none of the name of {high}/other.png; pair them all" in refusal()
    (tmp_path / "high" / "other.png").unlink()
    (tmp_path / "high" / f"{NAMES[3]}.png").unlink()
    (tmp_path / "high" / f"{NAMES[2]}.png").unlink()
    assert f"{high} has none of the name of {low}/{NAMES[2]}.jpg and of 1 more" in refusal()
    write(tmp_path / "high", originals())
    write_png(tmp_path / "high" / f"{NAMES[1]}.png", originals(S, 24)[1])
    assert f"{NAMES[1]}.png: 24x16, not 16x16, as {high}/{NAMES[0]}.png; cut all" in refusal()


# --- images of other methods


def test_results_are_read_by_name(tmp_path):
    x = originals()
    folder = write(tmp_path / "theirs", x[::-1], ".webp")
    write_png(tmp_path / "theirs" / "more" / "overview.png", originals(8, 8)[0])  # is not looked at
    found = read_results(folder, [NAMES[2], NAMES[0]], S, S)
    np.testing.assert_allclose(found, signed(x[::-1][[2, 0]]), atol=1e-6)
    assert read_results(folder, ["more/overview"], 8, 8).shape == (1, 8, 8, 3)
    with pytest.raises(UserError, match="lacks images of 2 of 3 inputs: c, for one; name each image as its input"):
        read_results(folder, [NAMES[0], "c", "d"], S, S)
    with pytest.raises(UserError, match="photo.0.webp: 16x16, but its original is 20x16; a result has the size"):
        read_results(folder, NAMES, S, 20)
    write(tmp_path / "theirs", x, ".png")
    with pytest.raises(UserError, match="have one name"):
        read_results(folder, NAMES, S, S)


def test_they_stand_in_the_table_beside_a_bundle(bundle, feature_folder, pair, tmp_path, monkeypatch):
    """The originals as results are the row of the originals, the enlarged inputs that of the condition; to a byte."""
    monkeypatch.setattr("codi_tf.cli.evaluate.PROCESS_STEPS", (1,))
    examples, _ = data.read_folder_pair(*folder_pair(pair), make_task("super_resolution"), N)
    write(tmp_path / "perfect", originals())
    write(tmp_path / "bicubic", (examples["condition"] + 1) / 2)  # a name that the report has
    out = tmp_path / "report"
    tf.config.run_functions_eagerly(True)
    words = [bundle, tmp_path / "perfect", tmp_path / "bicubic", "--data", pair]
    words += ["--features", feature_folder, "--out", out]
    try:
        main([*map(str, words), "--steps", "1", "--count", str(N)])
    finally:
        tf.config.run_functions_eagerly(False)
    written = json.loads((out / "metrics.json").read_text())
    rows, settings = written["rows"], written["settings"]
    paths = {name: str(tmp_path / name) for name in ("perfect", "bicubic")}
    assert list(rows) == ["bicubic", f"{bundle}, 1 step", *paths.values(), "autoencoder", "original"]
    for path, like in ((paths["perfect"], "original"), (paths["bicubic"], "bicubic")):
        assert rows[path].keys() == rows[like].keys()
        for key in ("psnr", "ssim", "sharpness", "latent_error", "frechet_photos"):
            expected = rows[like][key]
            assert rows[path][key] == (expected if expected is None else pytest.approx(expected, rel=0.02, abs=1e-4))
    assert rows[paths["bicubic"]]["psnr"] < 40
    assert [one["path"] for one in settings["results"].values()] == list(paths.values())
    assert settings["photos"] == NAMES and settings["data"] == pair
    page = (out / "report.md").read_text()
    assert f"4 pairs of 16 pixels, {pair}, seed 0." in page.replace("\\", "")
    assert f": images in `{paths['perfect']}`" in page
    assert {"grid.png", "process-1.png", "curves.png"} <= {path.name for path in out.iterdir()}
    assert not (out / "process-2.png").exists()


def test_sizes_must_suit_the_networks(bundle, tmp_path):
    x = originals(20, 16)
    low, high = (write(tmp_path / name, x) for name in ("low", "high"))
    options = parse([str(bundle), "--out", "report", "--data", f"{low}:{high}", "--count", "2"], "codi evaluate")
    with pytest.raises(UserError, match="pairs of 16x20 pixels; these networks take multiples of 8"):
        inputs_of(options, make_model(make_base(), task=make_task("super_resolution")))


def test_mistakes_are_told_before_any_work(bundle, pair, tmp_path):
    def refusal(*words) -> str:
        with pytest.raises(UserError) as caught:
            parse([*map(str, words), "--out", str(tmp_path / "report")], "codi evaluate")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    theirs = tmp_path / "high"
    assert "holds images; name a bundle, too, whose task and autoencoder measure them" in refusal(theirs)
    assert "photos has no pairs of names; give a folder of codi pairs, or LOW:HIGH" in refusal(bundle, theirs)
    assert "named twice" in refusal(bundle, theirs, tmp_path / "." / "high", "--data", pair)
    (tmp_path / "empty").mkdir()
    assert "empty: no bundle is in it" in refusal(bundle, tmp_path / "empty", "--data", pair)
    with pytest.raises(UserError, match="is read from there and would be replaced"):
        parse([str(bundle), str(theirs), "--data", pair, "--out", str(theirs)], "codi evaluate")
