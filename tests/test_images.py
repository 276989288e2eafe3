"""Images: every kind of file Pillow gives us, exact pixels; errors in one line."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.io import images

GREY = np.array([[0, 255, 51], [102, 7, 200]], np.uint8)  # [2, 3]
COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14  # [2, 3, 3]
DEEP = np.array([[0, 65535, 1], [25700, 40000, 256]], np.uint16)  # [2, 3]


def rgb(gray):
    """The float32 RGB image that a gray one in [0, 1] must become."""
    return np.repeat(np.asarray(gray, np.float32)[..., None], 3, axis=-1)


def check(path, mode, expected):
    with Image.open(path) as file:
        assert file.mode == mode  # the test would be about another mode otherwise
    image = images.read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)


# --- read_image: modes


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_color(tmp_path, suffix):
    Image.fromarray(COLOUR).save(tmp_path / f"a.{suffix}")
    check(tmp_path / f"a.{suffix}", "RGB", COLOUR / 255)


def test_gray(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png")
    check(tmp_path / "a.png", "L", rgb(GREY / 255))


def test_one_bit(tmp_path):
    bits = np.array([[True, False, True], [False, False, True]])
    Image.fromarray(bits).save(tmp_path / "a.png")
    check(tmp_path / "a.png", "1", rgb(bits))


def palette_image():
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 102, 0, 0, 0, 51])
    image.putdata([2, 0, 1])
    return image


def test_palette(tmp_path):
    palette_image().save(tmp_path / "a.png")
    check(tmp_path / "a.png", "P", [[[0, 0, 0.2], [1, 0, 0], [0, 0.4, 0]]])


def test_transparent_palette_color_becomes_white(tmp_path):
    palette_image().save(tmp_path / "a.png", transparency=0)
    check(tmp_path / "a.png", "P", [[[0, 0, 0.2], [1, 1, 1], [0, 0.4, 0]]])


def test_transparent_gray_value_becomes_white(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.png", transparency=51)
    check(tmp_path / "a.png", "L", rgb(np.where(GREY == 51, 255, GREY) / 255))


def test_transparent_color_becomes_white(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png", transparency=tuple(int(v) for v in COLOUR[1, 2]))
    expected = COLOUR / 255
    expected[1, 2] = 1
    check(tmp_path / "a.png", "RGB", expected)


def test_rgba_is_composited_over_white(tmp_path):
    alpha = np.array([[0, 255, 51], [102, 153, 204]], np.uint8)
    Image.fromarray(np.dstack([COLOUR, alpha])).save(tmp_path / "a.png")
    a = alpha[..., None] / 255
    check(tmp_path / "a.png", "RGBA", COLOUR / 255 * a + (1 - a))


def test_gray_with_alpha_is_composited_over_white(tmp_path):
    alpha = np.array([[0, 255, 51], [102, 153, 204]], np.uint8)
    Image.fromarray(np.dstack([GREY, alpha]), mode="LA").save(tmp_path / "a.png")
    check(tmp_path / "a.png", "LA", rgb(GREY / 255 * (alpha / 255) + (1 - alpha / 255)))


def test_cmyk(tmp_path):
    inks = np.array(
        [[[0, 0, 0, 0], [255, 0, 0, 0], [51, 102, 153, 0]], [[0, 0, 0, 255], [9, 9, 9, 255], [0, 0, 255, 0]]]
    )
    Image.fromarray(inks.astype(np.uint8), mode="CMYK").save(tmp_path / "a.tif")
    expected = [[[1, 1, 1], [0, 1, 1], [0.8, 0.6, 0.4]], [[0, 0, 0], [0, 0, 0], [1, 1, 0]]]
    check(tmp_path / "a.tif", "CMYK", expected)


def test_16_bit_gray_keeps_its_precision(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    check(tmp_path / "a.png", "I;16", rgb(DEEP / 65535))
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(levels).save(tmp_path / "all.png")
    read = images.read_image(tmp_path / "all.png")
    assert (np.rint(read[..., 0].astype(np.float64) * 65535).astype(np.uint16) == levels).all()


def test_16_bit_big_endian_tiff(tmp_path):
    Image.frombytes("I;16B", (3, 2), DEEP.astype(">u2").tobytes()).save(tmp_path / "a.tif")
    check(tmp_path / "a.tif", "I;16B", rgb(DEEP / 65535))


def test_16_bit_pgm_is_mode_i(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 2 65535\n" + DEEP.astype(">u2").tobytes())
    check(tmp_path / "a.pgm", "I", rgb(DEEP / 65535))


def test_16_bit_color_is_read_as_its_upper_8_bits(tmp_path):
    deep = np.array([[[0, 65535, 0x1234], [0x80FF, 0x7F00, 0x00FF]]], np.uint16)  # [1, 2, 3]
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)  # 2x1, 16 bits, color type RGB
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + deep.astype(">u2").tobytes())), (b"IEND", b"")]
    coded = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(coded))
    check(tmp_path / "a.png", "RGB", (deep >> 8) / 255)


def test_float(tmp_path):
    values = np.array([[0, 0.25, 1], [0.5, 0.125, 1e-3]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    check(tmp_path / "a.tif", "F", rgb(values))


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        (np.array([[0.0, 255.0]], np.float32), "values 0.0 to 255.0; rescale it to 0 .. 1"),
        (np.array([[-0.5, 0.5]], np.float32), "values -0.5 to 0.5; rescale it to 0 .. 1"),
        (np.array([[0.5, np.nan]], np.float32), "rescale it to 0 .. 1"),
        (np.array([[0, 70000]], np.int32), "values 0 to 70000; rescale it to 0 .. 65535"),
        (np.array([[-1, 5]], np.int32), "values -1 to 5; rescale it to 0 .. 65535"),
    ],
)
def test_unknown_range_is_an_error(tmp_path, values, remedy):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=remedy) as caught:
        images.read_image(tmp_path / "a.tif")
    assert str(tmp_path / "a.tif") in str(caught.value)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.gif")[0, 0], [1, 0, 0])


def test_jpeg_and_webp_are_close(tmp_path):
    smooth = np.tile(np.linspace(40, 200, 32, dtype=np.uint8)[:, None, None], (1, 32, 3))
    for name in ("a.jpg", "a.webp"):
        Image.fromarray(smooth).save(tmp_path / name, quality=95)
        np.testing.assert_allclose(images.read_image(tmp_path / name), smooth / 255, atol=0.02)


# --- read_image: orientation


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.swapaxes(0, 1)),
        (6, lambda stored: np.rot90(stored, -1)),  # shown turned clockwise
        (7, lambda stored: stored[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda stored: np.rot90(stored, 1)),
    ],
)
@pytest.mark.parametrize("stored", [COLOUR, DEEP], ids=["8 bits", "16 bits"])
def test_exif_orientation(tmp_path, orientation, upright, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    expected = upright(stored) / np.float32(np.iinfo(stored.dtype).max)
    expected = expected if expected.ndim == 3 else rgb(expected)
    image = images.read_image(tmp_path / "a.png")
    assert image.shape == expected.shape
    np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)


# --- read_image: errors


def bad(path, match):
    with pytest.raises(UserError, match=match) as caught:
        images.read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    bad(tmp_path / "none.png", "no such file")


def test_folder_instead_of_file(tmp_path):
    bad(tmp_path, "it is a folder")


@pytest.mark.parametrize("content", [b"", b"hello, this is text"])
def test_not_an_image(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    bad(tmp_path / "a.png", "not an image")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_file(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(whole)
    images.read_image(whole)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    bad(cut, "truncated or damaged|not an image")


@pytest.mark.parametrize("limit", [17, 5], ids=["where Pillow warns", "where Pillow raises"])
def test_decompression_bomb(tmp_path, monkeypatch, limit):
    Image.fromarray(np.zeros((3, 6, 3), np.uint8)).save(tmp_path / "a.png")
    images.read_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    bad(tmp_path / "a.png", f"more than {limit} pixels")


# --- read_mask


def check_mask(path, mode, expected):
    with Image.open(path) as file:
        assert file.mode == mode
    mask = images.read_mask(path)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask[..., 0], expected)


def test_mask_of_gray_levels(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "a.png")
    check_mask(tmp_path / "a.png", "L", [[0, 0, 1, 1]])


def test_mask_of_one_bit(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    check_mask(tmp_path / "a.png", "1", [[1, 0]])


def test_mask_with_a_palette(tmp_path):
    """The colors count, not their numbers."""
    image = Image.new("P", (3, 1))
    image.putpalette([255, 255, 255, 0, 0, 0, 100, 100, 100])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "a.png")
    check_mask(tmp_path / "a.png", "P", [[1, 0, 0]])


def test_mask_of_colors(tmp_path):
    colors = [[255, 255, 255], [0, 0, 0], [255, 0, 0], [255, 255, 0], [128, 128, 128], [127, 127, 127]]
    Image.fromarray(np.array([colors], np.uint8)).save(tmp_path / "a.png")
    check_mask(tmp_path / "a.png", "RGB", [[1, 0, 0, 1, 1, 0]])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_of_a_mask_are_not_white(tmp_path, mode):
    gray, alpha = np.array([[255, 255, 255, 0]], np.uint8), np.array([[255, 0, 100, 255]], np.uint8)
    channels = [gray] * (len(mode) - 1) + [alpha]
    Image.fromarray(np.dstack(channels), mode=mode).save(tmp_path / "a.png")
    check_mask(tmp_path / "a.png", mode, [[1, 0, 0, 0]])


def test_mask_of_16_bits(tmp_path):
    Image.fromarray(np.array([[0, 255, 32767, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    check_mask(tmp_path / "a.png", "I;16", [[0, 0, 0, 1, 1]])


def test_mask_that_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(UserError, match="a.png: not an image"):
        images.read_mask(tmp_path / "a.png")


# --- imports


def test_images_needs_no_tensorflow():
    code = "import sys, codi_tf.io.images; assert not {'tensorflow', 'keras'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
