"""python -m codi_tf.sample: photos of any size and mode in, a whole image or one line out."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from commands import run_here
from conftest import UNET
from PIL import Image

import codi_tf
from codi_tf.checkpoints.base import Base, make_unet
from codi_tf.cli import restore, text2image
from codi_tf.cli.sample import main
from codi_tf.core.errors import UserError
from codi_tf.inference import rendering
from codi_tf.inference.rendering import pixel_limit, render, working_size
from codi_tf.io import images
from codi_tf.models.autoencoder import AutoencoderKL
from codi_tf.models.unet import UNet
from codi_tf.tasks import make_task
from export.runtime import run as export_run

ROOT = Path(codi_tf.__file__).parents[1]


@pytest.fixture(scope="module")
def model(bundle):
    return codi_tf.load(bundle)


def upright(height: int, width: int) -> np.ndarray:
    """An image that tells its corners and axes apart, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    return np.rint(255 * np.stack([y, x, 0.25 + 0 * x], axis=-1)).astype(np.uint8)


def run(bundle, condition, out, *options):
    main([str(bundle), "--condition", str(condition), "--out", str(out), *map(str, options)])
    return np.asarray(Image.open(out))


@pytest.mark.parametrize(
    "task, tile, why",
    [
        ("depth", None, ": depth needs the whole image at once"),
        ("inpainting", None, ": the mask covers a whole tile; --tile makes tiles all the same"),
        ("inpainting", 0, ""),
    ],
)
def test_a_smaller_image_has_a_reason(task, tile, why):
    """Catches a large image that is made small without a word of why, or of what to do about it."""
    model = types.SimpleNamespace(task=make_task(task))
    assert restore._why(argparse.Namespace(tile=tile), model) == why


# --- images: sizes are chosen to be padded to 8 x 8 or 24 x 32, so that little has to be compiled


def test_as_a_program(bundle, model, tmp_path):
    Image.fromarray(upright(7, 5)).save(tmp_path / "in.png")
    out = tmp_path / "made" / "out.png"  # the folder is made
    command = [sys.executable, "-m", "codi_tf.sample", str(bundle), "--condition", str(tmp_path / "in.png")]
    command += ["--out", str(out), "--steps", "2", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    printed = [line.split(",")[0] for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert printed == [f"loading {bundle}", "step 1/2", "step 2/2", "decoding"]
    assert [path.name for path in out.parent.iterdir()] == ["out.png"]
    made = np.asarray(Image.open(out)).astype(int)
    # Another process may split its sums in another way: one level.
    np.testing.assert_allclose(made, model.generate(upright(7, 5), steps=2, seed=7), atol=1)
    assert np.abs(made - model.generate(upright(7, 5), steps=2, seed=0)).max() > 2
    assert np.abs(made - model.generate(upright(7, 5), steps=1, seed=7)).max() > 2


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (5, 3), (17, 30)])
def test_odd_sizes(model, size):
    made = render(model, upright(*size) / np.float32(255), steps=1)
    assert made.shape == (*size, 3)
    np.testing.assert_array_equal(made, model.generate(upright(*size), steps=1))


def save_mode(mode: str, path) -> np.ndarray:
    """Writes an 18 x 30 photo in a mode; returns the upright RGB image that it shows, float [H, W, 3]."""
    photo = upright(18, 30)
    gray = photo[..., 0]
    if mode == "L":
        Image.fromarray(gray).save(path)
        return np.repeat(gray[..., None], 3, axis=-1) / np.float32(255)
    if mode == "RGBA":
        alpha = np.full((18, 30, 1), 51, np.uint8)
        Image.fromarray(np.concatenate([photo, alpha], axis=-1)).save(path)
        return 1 - np.float32(51 / 255) * (1 - photo / np.float32(255))
    if mode == "16 bit":
        deep = gray.astype(np.uint16) * 257
        Image.fromarray(deep).save(path)
        return np.repeat(deep[..., None] / np.float32(65535), 3, axis=-1)
    assert mode == "EXIF"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(photo)).save(path, exif=exif)
    return photo / np.float32(255)


@pytest.mark.parametrize("mode", ["L", "RGBA", "16 bit", "EXIF"])
def test_modes(model, tmp_path, mode):
    photo = save_mode(mode, tmp_path / "in.png")
    made = render(model, images.read_image(tmp_path / "in.png"), steps=1)
    assert made.shape == (18, 30, 3)
    np.testing.assert_array_equal(made, model.generate(photo, steps=1))


def test_upscale(model):
    photo = upright(6, 10) / np.float32(255)
    larger = images.resize(photo, 18, 30)
    np.testing.assert_array_equal(render(model, photo, upscale=3, steps=1), model.generate(larger, steps=1))


def test_large_photo_is_made_smaller_and_enlarged(bundle, model, tmp_path, capsys, monkeypatch):
    """The whole way from a file, with a turned photo and --upscale, where no tiles are wanted."""
    monkeypatch.setattr(rendering, "MAX_PIXELS", 32 * 64)
    photo, exif = upright(18, 32), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(photo)).save(tmp_path / "in.png", exif=exif)
    made = run(bundle, tmp_path / "in.png", tmp_path / "out.png", "--steps", 1, "--upscale", 2, "--tile", 0)
    assert made.shape == (36, 64, 3)
    expected = images.resize(model.generate(photo, steps=1) / np.float32(255), 36, 64)
    np.testing.assert_array_equal(made, images.to_uint8(expected))
    printed = capsys.readouterr().err
    assert "the result of 64x36 is made at 32x18 and enlarged" in printed


LIMIT = 1_500_000
LARGE = [(4000, 3000), (20_000, 500), (1, 2_000_000), (2_000_000, 1), (3, 30_000)]


@pytest.mark.parametrize("size", [(1000, 1500), (1, 1), *LARGE])
def test_working_size(size):
    height, width = working_size(*size, LIMIT)
    if size not in LARGE:
        assert (height, width) == size
        return
    fullness = max(height * width / LIMIT, max(height, width) / (LIMIT / 64))
    assert min(height, width) >= 1 and 0.99 < fullness <= 1  # and not smaller than need be
    shrink = max(height, width) / max(size)
    np.testing.assert_allclose((height, width), np.maximum(1, np.array(size) * shrink), atol=1)  # the same shape


@pytest.mark.parametrize(
    ("kinds", "heads", "finest", "stride"),
    [
        (("DownBlock2D", "CrossAttnDownBlock2D"), 4, 4, 8),
        (("DownBlock2D", "CrossAttnDownBlock2D"), (2, 8), 8, 8),
        (("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), (2, 8), 2, 4),
        (("DownBlock2D", "DownBlock2D"), 4, 4, 8),  # the middle block always attends
    ],
)
def test_pixel_limit(base, monkeypatch, kinds, heads, finest, stride):
    """As many pixels as make the finest attention map [heads, positions, positions] of 1 MB."""
    monkeypatch.setattr(rendering, "MAX_ATTENTION_BYTES", 1_000_000)
    up = tuple(kind.replace("Down", "Up") for kind in reversed(kinds))
    config = {**UNET, "down_block_types": kinds, "up_block_types": up, "attention_head_dim": heads}
    limit = pixel_limit(Base(make_unet(config), base.vae, base.scheduler))
    assert 4 * finest * (limit / stride**2) ** 2 == pytest.approx(1_000_000, rel=1e-2)
    monkeypatch.setattr(rendering, "MAX_PIXELS", 1000)
    assert pixel_limit(base) == 1000
    trained = make_unet({**config, "sample_size": 64})
    assert pixel_limit(Base(trained, base.vae, base.scheduler)) == (4 * 64) ** 2


@pytest.mark.parametrize(
    ("unet", "sizes"),
    [
        ({"attention_head_dim": 8, "sample_size": 64}, [(512, 512), (512, 768), (640, 640)]),
        ({"attention_head_dim": (5, 10, 20, 20), "sample_size": 96}, [(512, 512), (768, 768)]),
    ],
)
def test_pixel_limit_of_stable_diffusion(unet, sizes):
    """The usual sizes of 1.x and 2.x; a UNet knows its limit before it has weights."""
    unet = UNet(**unet)
    vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512))
    limit = pixel_limit(Base(unet, vae, {}))
    assert all(height * width <= limit for height, width in sizes) and limit < 1000 * 1000


def test_compute_is_passed_on(bundle, tmp_path):
    Image.fromarray(upright(8, 8)).save(tmp_path / "in.png")
    made = run(bundle, tmp_path / "in.png", tmp_path / "out.png", "--compute", "bfloat16")
    expected = codi_tf.load(bundle, compute="bfloat16").generate(upright(8, 8))
    np.testing.assert_array_equal(made, expected)
    assert np.any(made != codi_tf.load(bundle).generate(upright(8, 8)))


# --- mistakes


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "in.png"
    Image.fromarray(upright(8, 8)).save(path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "0"], "--steps is 0"),
        (["--steps", "1001"], "--steps is 1001"),
        (["--seed", "-1"], "--seed is -1"),
        (["--upscale", "0"], "--upscale is 0"),
        (["--tile", "-1"], "--tile is -1"),
        (["--tile", "8"], "tile is 8: it must be a whole number from 16"),
        (["--tile", "20"], "tile is 20: it must be a multiple of 8, such as 16"),
        (["--color", "gray"], "--color is gray: choose from none, wavelet, adain"),
        (["--upscale", "900"], "7200x7200 has more than 50,000,000 pixels"),
        (["--prompt", "a cat"], "no text encoder"),
        (["--sampler", "euler"], "--sampler is euler: choose from "),
        (["--condition-scale=-1"], "--condition-scale is -1: it must be a number from 0 to 10"),
        (["--condition-scale", "nan"], "--condition-scale is nan"),
        (["--fidelity", "1.1"], "--fidelity is 1.1: it must be a number from 0 to 1"),
        (["--guidance", "2"], "guidance is 2.0: this model was trained without"),
        (["--negative-prompt", "x"], "--negative-prompt: .* is a trained model"),
        (["--tokenizer=x", "--width=8", "--height=8", "--image=x", "--strength=1"], "^--height"),
        (["--out", "out.xyz"], "use a name that ends in .png"),
        (["--out", "."], "that is a folder; name a file"),
        (["--out", "in.png/out.png"], "nothing can be written into"),
        (["--out", "folder.png"], "that is a folder"),
        (["--condition", "none.png"], "no such file"),
        (["--condition", "text.png"], "not an image"),
        (["--condition", "cut.png"], "truncated or damaged"),
        (["--condition", "folder.png"], "no image in folder"),
    ],
)
def test_mistakes(bundle, photo, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:60])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        main([str(bundle), "--condition", "in.png", "--out", "made/out.png", *options])
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written


def test_the_sampler_is_passed_on(bundle, model, photo, tmp_path):
    made = {}
    for sampler in ("ddim", "stochastic", "consistency"):
        out = tmp_path / f"{sampler}.png"
        options = ["--condition", str(photo), "--out", str(out), "--steps", "3", "--sampler", sampler]
        main([str(bundle), *options])
        made[sampler] = np.asarray(Image.open(out)).astype(int)
        expected = model.generate(np.asarray(Image.open(photo).convert("RGB")), steps=3, sampler=sampler)
        np.testing.assert_allclose(made[sampler], expected, atol=1)
    assert all(np.abs(made["ddim"] - made[sampler]).max() > 1 for sampler in ("stochastic", "consistency"))


def test_generate_refuses_numbers_prompts_and_results_that_are_none(bundle):
    model = codi_tf.load(bundle)
    photo = upright(8, 8)
    np.testing.assert_array_equal(model.generate(photo, steps=np.int64(2)), model.generate(photo, steps=2))
    for prompt in (3, [None], b"cat", []):
        with pytest.raises(UserError, match="prompt"):
            model.generate(photo, prompt)
    kernel = model.network.unet.conv_out.kernel
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    with pytest.raises(UserError, match="not finite: compute in float32 or bfloat16") as caught:
        model.generate(photo, steps=1)
    assert "\n" not in str(caught.value)


def test_no_bundle(photo, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="none: no such model"):
        run(tmp_path / "none", photo, tmp_path / "out.png")
    with pytest.raises(UserError, match="--condition: .*folder is no trained model"):
        run(tmp_path / "folder", photo, tmp_path / "out.png")


def test_damaged_bundle_leaves_nothing(photo, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "codi.json").write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        run(tmp_path / "bundle", photo, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_mistakes_are_told_before_tensorflow_is_loaded(bundle, photo, tmp_path):
    """As a program: one line, exit status 2, and no import of TensorFlow or Keras."""
    program = (
        "import json, sys; from commands import run_here; from codi_tf.cli.sample import main; "
        "done = [vars(run_here(main, *words)) for words in json.loads(sys.argv[1])]; "
        "assert not {'tensorflow', 'keras'} & sys.modules.keys(); print(json.dumps(done))"
    )
    mistakes = (["--steps", "0"], ["--condition", "none.png"], ["--out", str(photo / "x.png")], ["--upscale", "-2"])
    mistakes += (["--steps", "four"], ["--unknown"], ["--sampler", "euler"], ["--strength", "0.5"])
    given = [str(bundle), "--condition", str(photo), "--out", str(tmp_path / "out.png")]
    command = [sys.executable, "-c", program, json.dumps([[*given, *mistake] for mistake in mistakes])]
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    out = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path})
    results = json.loads(out.stdout)
    assert len(results) == len(mistakes) == 8
    for done in results:
        assert done["returncode"] == 2 and done["stdout"] == "", done["stderr"]
        assert done["stderr"].startswith("error: ") and done["stderr"].count("\n") == 1


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (restore.main, "--condition"),
        (restore.main, "--mask"),
        (text2image.main, "--image"),
        (export_run.main, "--condition"),
        (export_run.main, "--mask"),
    ],
)
def test_what_is_read_is_not_overwritten(bundle, base_folder, tmp_path, command, option):
    """--out in.png replaced the photo that the image was made of; so did a link to it."""
    for name in ("in.png", "other.png"):
        images.write_png(tmp_path / name, upright(8, 8))
    before = (tmp_path / "in.png").read_bytes()
    (tmp_path / "link.png").symlink_to("in.png")
    model, needed = (base_folder, ["--prompt", "a"]) if option == "--image" else (bundle, [])
    needed += ["--condition", tmp_path / "other.png"] if option == "--mask" else []
    for out in ("in.png", "link.png"):
        done = run_here(command, model, option, tmp_path / "in.png", *needed, "--out", tmp_path / out)
        said = f"error: --out is {tmp_path / out}: it would replace the {option}; use another name\n"
        assert (done.returncode, done.stderr) == (2, said)
    assert (tmp_path / "in.png").read_bytes() == before
