"""How images of any size are made: in one piece, of tiles, or smaller; colors; the same on the command line."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import make_model
from PIL import Image
from tiny import tiny_base

import codi_tf
from codi_tf.checkpoints.base import Base
from codi_tf.cli.sample import main
from codi_tf.core.errors import UserError
from codi_tf.inference import rendering
from codi_tf.inference.rendering import Plan, plan, render
from codi_tf.inference.tiling import generate_tiled
from codi_tf.io.color import ALIGNMENTS
from codi_tf.io.images import resize, to_uint8
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.unet import UNet
from codi_tf.tasks import TASKS, make_task

TASKS_HERE = sorted(name for name in TASKS if TASKS[name].__module__.startswith("codi_tf."))  # others: of other tests


@pytest.fixture(scope="module")
def model():
    return make_model(tiny_base())  # of images in multiples of 4


@pytest.fixture(scope="module")
def inpainting():
    return make_model(tiny_base(), task=make_task("inpainting"))


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8) / np.float32(255)


def with_box(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width, 1), np.float32)
    mask[rows, columns] = 1
    return np.concatenate([photo(height, width), mask], axis=-1)


# --- the plan


@pytest.mark.parametrize(
    ("size", "options", "made"),
    [
        ((60, 100), {}, Plan(60, 100, (60, 100))),
        ((30, 50), {"upscale": 2}, Plan(60, 100, (60, 100))),
        ((150, 100), {}, Plan(150, 100, (150, 100), tile=80, overlap=40, pieces=6)),
        ((75, 50), {"upscale": 2}, Plan(150, 100, (150, 100), tile=80, overlap=40, pieces=6)),
        ((3, 300), {}, Plan(3, 300, (3, 300), tile=80, overlap=40, pieces=7)),  # few pixels, but a long strip
        ((150, 100), {"tile": 0}, Plan(150, 100, (97, 65))),
        ((60, 100), {"tile": 0}, Plan(60, 100, (60, 100))),
        ((60, 100), {"tile": 20}, Plan(60, 100, (60, 100), tile=20, overlap=8, pieces=40)),
        ((20, 20), {"tile": 20}, Plan(20, 20, (20, 20))),
        ((150, 100), {"tile": 160}, Plan(150, 100, (150, 100))),  # more pixels than the limit, as asked for
    ],
)
def test_plan(model, monkeypatch, size, options, made):
    monkeypatch.setattr(rendering, "MAX_PIXELS", 6400)  # 80 x 80, no side above 100
    assert plan(model, photo(*size), **options) == made


@pytest.mark.parametrize(
    ("unet", "tile", "overlap"),
    [
        ({"attention_head_dim": 8, "sample_size": 64}, 512, 256),  # Stable Diffusion 1.x
        ({"attention_head_dim": (5, 10, 20, 20), "sample_size": 96}, 768, 384),  # 2.x
        ({"attention_head_dim": 8}, 512, 256),
        ({"attention_head_dim": 64}, 384, 192),  # more heads, larger attention maps
    ],
)
def test_tiles_are_as_large_as_the_base_was_trained_for_and_affords(unet, tile, overlap):
    base = Base(UNet(**unet), AutoencoderKL(block_out_channels=(128, 256, 512, 512)), {})
    made = plan(SimpleNamespace(base=base, task=make_task("super_resolution")), np.zeros((2000, 1500, 3), np.float32))
    assert (made.tile, made.overlap, made.working) == (tile, overlap, (2000, 1500))


def test_a_hole_that_a_tile_would_lie_in_makes_the_image_smaller(inpainting, monkeypatch):
    """Tiles of 32 pixels in steps of 16, from 0 on: the third of them lies at 32 .. 63."""
    monkeypatch.setattr(rendering, "MAX_PIXELS", 32 * 32)
    hole = with_box(64, 90, slice(None), slice(32, 64))
    assert plan(inpainting, hole).tile == 0 and plan(inpainting, hole).working < (64, 90)
    assert plan(inpainting, hole, tile=32).tile == 32  # who says so gets tiles
    smaller = with_box(64, 90, slice(None), slice(33, 64))
    assert plan(inpainting, smaller).tile == 32
    for upscale, columns in ((2, slice(16, 32)), (2, slice(17, 32))):
        hole = with_box(32, 45, slice(None), columns)
        assert plan(inpainting, hole, upscale=upscale).tile == (0 if columns.start == 16 else 32)


@pytest.mark.parametrize("name", TASKS_HERE)
def test_tasks_that_need_the_whole_image_are_made_smaller(monkeypatch, name):
    model = SimpleNamespace(base=tiny_base(), task=make_task(name))
    condition = with_box(150, 100, slice(70, 80), slice(40, 50)) if model.task.has_mask else photo(150, 100)
    monkeypatch.setattr(rendering, "MAX_PIXELS", 6400)
    local = name in ("super_resolution", "real_world", "bicubic", "inpainting", "pairs")
    assert bool(plan(model, condition).tile) == local
    if not local:
        with pytest.raises(UserError, match="tile is 80: this model's task needs the whole image at once"):
            plan(model, condition, tile=80)


# --- images


def test_a_large_image_is_made_of_tiles(model, monkeypatch):
    monkeypatch.setattr(rendering, "MAX_PIXELS", 16 * 16)
    larger, reported = resize(photo(9, 13), 18, 26), []
    made = render(model, photo(9, 13), upscale=2, steps=2, seed=3, report=reported.append)
    np.testing.assert_array_equal(made, generate_tiled(model, larger, tile=16, overlap=8, steps=2, seed=3))
    assert made.shape == (18, 26, 3) and reported == [*range(1, 13)]  # 2 x 3 tiles, two steps
    strip = render(model, photo(3, 30), tile=16, steps=1)
    np.testing.assert_array_equal(strip, generate_tiled(model, photo(3, 30), tile=16, overlap=8, steps=1))


def test_tiles_keep_the_known_pixels(inpainting):
    image = with_box(20, 37, slice(3, 17), slice(6, 30))
    made = render(inpainting, image, tile=16, steps=1)
    known = image[..., 3] == 0
    np.testing.assert_array_equal(made[known], to_uint8(image[..., :3])[known])
    assert np.abs(made[~known] / 255.0 - image[~known][:, :3]).max() > 0.1


@pytest.mark.parametrize(("color", "tile"), [("wavelet", None), ("adain", 0), ("adain", 16)])
def test_colors_are_the_photos(model, monkeypatch, tile, color):
    monkeypatch.setattr(rendering, "MAX_PIXELS", 16 * 64)
    shared = {"upscale": 2, "steps": 1, "tile": tile}
    plain, aligned = (render(model, photo(10, 14), **shared, color=kind) for kind in ("none", color))
    reference = resize(photo(10, 14), 20, 28)
    expected = to_uint8(ALIGNMENTS[color](plain / np.float32(255), reference))
    np.testing.assert_array_equal(aligned, expected)
    assert np.any(aligned != plain)


def test_colors_are_for_super_resolution_alone(model, inpainting):
    with pytest.raises(UserError, match="color is 'gray': use one of none, wavelet, adain"):
        render(model, photo(8, 8), color="gray")
    with pytest.raises(UserError, match="color is wavelet: this model's task does not keep an image's colors"):
        render(inpainting, with_box(8, 8, slice(4), slice(4)), color="wavelet")


# --- the command line


@pytest.fixture
def files(tmp_path, monkeypatch):
    """in.png of 40 x 24 pixels in the working folder."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(to_uint8(photo(24, 40))).save("in.png")
    return tmp_path


def test_tiles_and_colors_from_a_file(bundle, files, capsys):
    options = ["--steps", "2", "--tile", "16", "--color", "wavelet", "--seed", "7"]
    main([str(bundle), "--condition", "in.png", "--out", "out.png", *options])
    printed = capsys.readouterr().err.splitlines()
    assert printed[1] == "in.png: the result of 40x24 is made in 8 tiles of 16x16, to save memory"
    assert printed[2].startswith("tile 2/16, ") and printed[-2].startswith("tile 16/16, ") and printed[-1] == "decoding"
    expected = render(codi_tf.load(bundle), photo(24, 40), steps=2, tile=16, color="wavelet", seed=7)
    np.testing.assert_allclose(np.asarray(Image.open("out.png")).astype(int), expected, atol=1)


@pytest.mark.parametrize("name", TASKS_HERE)
def test_options_that_a_task_has_no_use_for_are_told_before_weights_are_read(files, name):
    (files / "bundle").mkdir()
    (files / "bundle" / "codi.json").write_text(json.dumps({"format": 1, "task": {"name": name}}))
    Image.fromarray(np.eye(40, dtype=np.uint8)[:24] * 255).save("mask.png")
    Image.fromarray(np.arange(960, dtype=np.uint16).reshape(24, 40)).save("depth.png")
    condition = "depth.png" if name == "depth" else "in.png"
    required = {"inpainting": ["--mask", "mask.png"], "editing": ["--prompt", "make it night"]}.get(name, [])
    refused = {"--tile": name in ("depth", "editing"), "--color": name in ("depth", "editing", "inpainting")}
    for flag, value in (("--tile", "16"), ("--color", "adain")):
        with pytest.raises(UserError) as caught:
            main(["bundle", "--condition", condition, "--out", "out.png", *required, flag, value])
        message = str(caught.value)
        assert message.startswith(f"{flag}: bundle was trained for {name}, which ") == refused[flag], message
        assert "\n" not in message and not (files / "out.png").exists()


def test_a_checkpoint_takes_neither_tiles_nor_colors(files):
    (files / "folder").mkdir()
    for options in (["--tile", "16"], ["--tile", "0"], ["--color", "none"]):
        with pytest.raises(UserError, match=f"{options[0]}: folder is no trained model"):
            main(["folder", "--prompt", "a cat", "--out", "out.png", *options])
