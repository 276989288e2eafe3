"""python -m codi_tf.sample --mask: what is white is filled in, every other pixel is the photo's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import make_base, make_model
from PIL import Image
from scipy import ndimage

import codi_tf
from codi_tf.cli.sample import main
from codi_tf.core.errors import UserError
from codi_tf.inference import rendering
from codi_tf.inference.rendering import render
from codi_tf.io import images
from codi_tf.tasks import make_task


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle of the inpainting task."""
    path = tmp_path_factory.mktemp("inpainting") / "bundle"
    make_model(make_base(), task=make_task("inpainting")).save(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return codi_tf.load(folder)


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def disc(height: int, width: int) -> np.ndarray:
    """A mask, uint8 [H, W] of 0 and 255, not the same upside down or mirrored."""
    y, x = np.mgrid[:height, :width]
    return np.where((y - 0.4 * height) ** 2 + (x - 0.3 * width) ** 2 < (0.3 * height) ** 2, 255, 0).astype(np.uint8)


def with_mask(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.concatenate([rgb, mask[..., None]], axis=-1)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """in.png and mask.png of 7 x 5 pixels in the working folder."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo(5, 7)).save("in.png")
    Image.fromarray(disc(5, 7)).save("mask.png")
    return tmp_path


def run(folder, *options):
    main([str(folder), "--condition", "in.png", "--mask", "mask.png", "--out", "out.png", *map(str, options)])
    return np.asarray(Image.open("out.png"))


def assert_filled(made, rgb, mask, expected):
    np.testing.assert_array_equal(made[mask == 0], rgb[mask == 0])
    np.testing.assert_array_equal(made[mask > 0], expected[mask > 0])
    assert np.abs(made[mask > 0].astype(int) - rgb[mask > 0]).max() > 20  # it is something else


def test_known_pixels_are_the_photos(folder, model, files, capsys):
    made = run(folder, "--steps", 2, "--seed", 3)
    assert_filled(made, photo(5, 7), disc(5, 7), model.generate(with_mask(photo(5, 7), disc(5, 7)), steps=2, seed=3))
    printed = capsys.readouterr().out
    assert printed == "out.png: where mask.png is not white, its pixels are those of in.png\n"


@pytest.mark.parametrize("size", [(5, 3), (17, 30)])
def test_odd_sizes(model, size):
    rgb, mask = photo(*size), disc(*size)
    made = render(model, with_mask(rgb, mask) / np.float32(255), steps=1)
    assert_filled(made, rgb, mask, model.generate(with_mask(rgb, mask), steps=1))


def test_the_photo_beneath_the_mask_has_no_say(model):
    rgb, mask = photo(8, 8), disc(8, 8)
    other = np.where(mask[..., None] > 0, 255 - rgb, rgb)
    first, second = (model.generate(with_mask(image, mask), steps=1) for image in (rgb, other))
    np.testing.assert_array_equal(first, second)
    generated = model.generate(with_mask(rgb, 0 * mask + 255), steps=1)  # while the photo beside it has
    assert np.abs(generated.astype(int) - first)[mask > 0].max() > 2


@pytest.mark.parametrize(
    ("upscale", "limit", "tile"), [(2, 10**6, None), (1, 16 * 64, 0), (2, 16 * 64, 0), (2, 16 * 64, None)]
)
def test_the_photo_beneath_the_mask_has_no_say_in_other_sizes(model, monkeypatch, upscale, limit, tile):
    """Of two photos that differ beneath the mask alone, the same image is made, whatever resizing mixes."""
    monkeypatch.setattr(rendering, "MAX_PIXELS", limit)
    rgb, mask = photo(40, 48), np.zeros((40, 48), np.uint8)
    mask[10:25, 12:30] = 255  # corners: the products of two negative lobes are positive
    made = []
    for beneath in (0, 255):
        image = np.where(mask[..., None] > 0, np.uint8(beneath), rgb)
        made.append(render(model, with_mask(image, mask) / np.float32(255), steps=1, upscale=upscale, tile=tile))
    far = np.ones(made[0].shape[:2], bool)
    far[(10 - 5) * upscale : (25 + 5) * upscale, (12 - 5) * upscale : (30 + 5) * upscale] = False
    assert (
        np.abs(made[0].astype(int) - made[1]).max() <= 2
    )  # a share below 1e-4 of what lies beneath, as the networks see it
    np.testing.assert_array_equal(made[0][far], images.to_uint8(_enlarged(rgb, upscale))[far])


def _enlarged(rgb, upscale):
    height, width = (upscale * side for side in rgb.shape[:2])
    return rgb / np.float32(255) if upscale == 1 else images.resize(rgb / np.float32(255), height, width)


def test_transparency_of_the_photo_is_white(folder, files):
    rgb, alpha = photo(5, 7), np.full((5, 7, 1), 255, np.uint8)
    alpha[disc(5, 7) == 0] = 0
    Image.fromarray(np.concatenate([rgb, alpha], axis=-1)).save("in.png")
    np.testing.assert_array_equal(run(folder, "--steps", 1)[disc(5, 7) == 0], 255)


def test_a_mask_of_16_bits_turned_by_its_orientation(folder, model, files):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(disc(5, 7).astype(np.uint16) * 257)).save("mask.png", exif=exif)
    made = run(folder, "--steps", 1)
    assert_filled(made, photo(5, 7), disc(5, 7), model.generate(with_mask(photo(5, 7), disc(5, 7)), steps=1))


def test_a_large_photo_keeps_its_own_pixels(folder, model, files, capsys, monkeypatch):
    """It is filled in at a smaller size, but what is known comes from the photo as it is."""
    monkeypatch.setattr(rendering, "MAX_PIXELS", 32 * 64)
    rgb, mask = photo(72, 128), disc(72, 128)
    Image.fromarray(rgb).save("in.png")
    Image.fromarray(mask).save("mask.png")
    made = run(folder, "--steps", 1, "--tile", 0)
    printed = capsys.readouterr()
    assert "the result of 128x72 is made at 32x18 and enlarged" in printed.err
    assert printed.out.endswith("its pixels are those of in.png\n")
    small = images.resize(rgb / np.float32(255), 18, 32)
    touched = np.abs(images.resize(0.5 + 0.25 * (mask[..., None] > 127).astype(np.float32), 18, 32) - 0.5) > 1e-4
    assert 0.02 < touched.mean() - (mask > 0).mean() < 0.2  # what the mask touches is unknown
    image = model.generate(np.concatenate([small, touched], axis=-1).astype(np.float32), steps=1)
    assert_filled(made, rgb, mask, images.to_uint8(images.resize(image / np.float32(255), 72, 128)))


@pytest.mark.parametrize("limit", [24 * 64, 10 * 64], ids=["made as large", "made smaller"])
def test_upscale(folder, files, capsys, monkeypatch, limit):
    monkeypatch.setattr(rendering, "MAX_PIXELS", limit * 2)
    rgb, mask = photo(12, 20), disc(12, 20)
    Image.fromarray(rgb).save("in.png")
    Image.fromarray(mask).save("mask.png")
    made = run(folder, "--steps", 1, "--upscale", 2, "--tile", 0)
    printed = capsys.readouterr()
    assert made.shape == (24, 40, 3)
    assert ("is made at 20x12 and enlarged" in printed.err) == (limit == 10 * 64)
    enlarged = images.to_uint8(images.resize(rgb / np.float32(255), 24, 40))
    unknown = np.kron(mask, np.ones((2, 2))) > 0
    far = ~ndimage.binary_dilation(unknown, np.ones((9, 9)))  # a bicubic kernel reaches 4 pixels
    assert far.mean() > 0.3
    np.testing.assert_array_equal(made[far], enlarged[far])
    assert (made != enlarged)[unknown].mean() > 0.5
    assert printed.out.endswith("those of in.png, enlarged\n")


# --- mistakes


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (disc(7, 5), "mask.png: 5x7, but the photo is 7x5"),
        (0 * disc(5, 7) + 127, "mask.png: no pixel is white"),
        (0 * disc(5, 7) + 128, "mask.png: every pixel is white"),
        (None, "mask.png: no such file"),
    ],
)
def test_bad_masks_are_told_before_the_bundle_is_read(files, mask, message):
    (files / "bundle").mkdir()
    (files / "bundle" / "codi.json").write_text("{")
    Path("mask.png").unlink()
    if mask is not None:
        Image.fromarray(mask).save("mask.png")
    with pytest.raises(UserError, match=message) as caught:
        run("bundle")
    assert "\n" not in str(caught.value) and not Path("out.png").exists()


def test_inpainting_needs_a_mask_and_no_other_task_takes_one(files):
    """Told from the bundle's JSON, before its networks are read."""
    (files / "bundle").mkdir()
    about = files / "bundle" / "codi.json"
    about.write_text(json.dumps({"format": 1, "task": {"name": "inpainting"}}))
    with pytest.raises(UserError, match="--mask is missing: bundle needs an image of the condition's size"):
        main(["bundle", "--condition", "in.png", "--out", "out.png"])
    about.write_text(json.dumps({"format": 1, "task": {"name": "super_resolution"}}))
    with pytest.raises(UserError, match="--mask: bundle was trained for super_resolution, which takes no mask"):
        run("bundle")
    for task in (None, {}, {"name": "unheard of"}, {"name": ["inpainting"]}, "inpainting"):
        about.write_text(json.dumps({"format": 1, "task": task}))
        with pytest.raises(UserError, match="codi.json|unknown task"):
            run("bundle")


def test_a_checkpoint_takes_no_mask(files):
    (files / "folder").mkdir()
    with pytest.raises(UserError, match="--condition: folder is no trained model|--mask: folder is no trained model"):
        run("folder")
    with pytest.raises(UserError, match="--mask: folder is no trained model"):
        main(["folder", "--prompt", "a cat", "--mask", "mask.png", "--out", "out.png"])


def test_generate_takes_the_channels_of_its_task(model, bundle):
    with pytest.raises(UserError, match=r"condition has shape \(8, 8, 3\): it must be \[H, W, 4\] .*RGB and the mask"):
        model.generate(photo(8, 8))
    with pytest.raises(UserError, match=r"condition has shape \(8, 8, 4\): it must be \[H, W, 3\]"):
        codi_tf.load(bundle).generate(with_mask(photo(8, 8), disc(8, 8)))
