"""Images: every kind of file Pillow gives us, exact pixels; errors in one line; PNG, resize, padding, grids."""

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


def rgb(grey):
    """The float32 RGB image that a grey one in [0, 1] must become."""
    return np.repeat(np.asarray(grey, np.float32)[..., None], 3, axis=-1)


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


def test_grey(tmp_path):
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


def test_transparent_grey_value_becomes_white(tmp_path):
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


def test_grey_with_alpha_is_composited_over_white(tmp_path):
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


def test_16_bit_grey_keeps_its_precision(tmp_path):
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
    bad(tmp_path, "directory")


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


def test_mask_of_grey_levels(tmp_path):
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
    grey, alpha = np.array([[255, 255, 255, 0]], np.uint8), np.array([[255, 0, 100, 255]], np.uint8)
    channels = [grey] * (len(mode) - 1) + [alpha]
    Image.fromarray(np.dstack(channels), mode=mode).save(tmp_path / "a.png")
    check_mask(tmp_path / "a.png", mode, [[1, 0, 0, 0]])


def test_mask_of_16_bits(tmp_path):
    Image.fromarray(np.array([[0, 255, 32767, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    check_mask(tmp_path / "a.png", "I;16", [[0, 0, 0, 1, 1]])


def test_mask_that_is_no_image(tmp_path):
    (tmp_path / "a.png").write_text("not a picture")
    with pytest.raises(UserError, match="a.png: not an image"):
        images.read_mask(tmp_path / "a.png")


# --- write_png


def test_write_png_round_trip(tmp_path):
    path = tmp_path / "new" / "folder" / "a.png"
    images.write_png(path, COLOUR)
    np.testing.assert_array_equal(images.to_uint8(images.read_image(path)), COLOUR)
    images.write_png(path, COLOUR[::-1] / 255)  # float, over the old one
    np.testing.assert_array_equal(images.to_uint8(images.read_image(path)), COLOUR[::-1])
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_write_png_is_png_whatever_the_name(tmp_path):
    images.write_png(tmp_path / "a.jpg", COLOUR)
    with Image.open(tmp_path / "a.jpg") as file:
        assert file.format == "PNG"


def test_write_png_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(UserError, match="cannot write .*a.png"):
        images.write_png(tmp_path / "a.png", COLOUR)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_write_png_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        images.write_png(tmp_path / "file" / "a.png", COLOUR)


# --- to_uint8


def test_to_uint8_clips_and_rounds():
    values = np.array([-1, 0, 0.4999 / 255, 0.5001 / 255, 0.5, 254.6 / 255, 1, 3])
    expected = [0, 0, 0, 1, 128, 255, 255, 255]
    for dtype in (np.float32, np.float64):
        assert images.to_uint8(values.astype(dtype)).tolist() == expected
    assert images.to_uint8(values).dtype == np.uint8


def test_to_uint8_inverts_division_by_255():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.to_uint8(levels / np.float32(255)), levels)
    np.testing.assert_array_equal(images.to_uint8(levels), levels)


@pytest.mark.parametrize("image", [np.array([np.nan]), np.array([np.inf]), np.array([1]), np.array([True])])
def test_to_uint8_refuses(image):
    with pytest.raises(ValueError, match="must be"):
        images.to_uint8(image)


# --- resize


def test_resize_shape_and_identity():
    image = np.random.default_rng(0).random((5, 8, 3), np.float32)
    assert images.resize(image, 7, 3).shape == (7, 3, 3)
    assert images.resize(image, 7, 3).dtype == np.float32
    np.testing.assert_array_equal(images.resize(image, 5, 8), image)


def test_resize_keeps_channels_apart_and_constants():
    constant = np.tile(np.float32([0.1, 0.5, 0.9]), (6, 6, 1))
    np.testing.assert_allclose(
        images.resize(constant, 11, 4), np.tile(np.float32([0.1, 0.5, 0.9]), (11, 4, 1)), atol=1e-6
    )


def test_resize_is_antialiased():
    stripes = np.zeros((32, 32, 3), np.float32)
    stripes[:, ::2] = 1
    assert np.abs(images.resize(stripes, 8, 8)[:, 1:-1] - 0.5).max() < 0.02


def test_resize_is_bicubic_and_clipped():
    step = np.zeros((8, 8, 3), np.float32)
    step[:, 4:] = 1
    enlarged = images.resize(step, 32, 32)
    assert enlarged.min() == 0 and enlarged.max() == 1  # cubic weights overshoot: clipped
    inner = images.resize(0.25 + 0.5 * step, 32, 32)
    assert inner.min() < 0.25 - 0.01 and inner.max() > 0.75 + 0.01  # ... and visible where there is room


# --- pad_to_multiple


def test_pad_reflects_at_the_bottom_and_the_right():
    image = np.arange(15, dtype=np.float32).reshape(3, 5, 1).repeat(3, axis=2)
    padded, size = images.pad_to_multiple(image, 4)
    assert size == (3, 5)
    assert padded.shape == (4, 8, 3)
    np.testing.assert_array_equal(padded[:3, :5], image)
    np.testing.assert_array_equal(padded[3, :5], image[1])
    np.testing.assert_array_equal(padded[:3, 5:], image[:, [3, 2, 1]])


def test_pad_takes_any_number_of_channels():
    image = np.random.default_rng(0).random((3, 5, 4), np.float32)
    padded, _ = images.pad_to_multiple(image, 4)
    for channels in (slice(0, 3), slice(1, 4)):
        np.testing.assert_array_equal(padded[..., channels], images.pad_to_multiple(image[..., channels], 4)[0])


def test_pad_of_a_fitting_image_changes_nothing():
    image = np.random.default_rng(0).random((8, 16, 3), np.float32)
    padded, size = images.pad_to_multiple(image, 8)
    assert size == (8, 16)
    np.testing.assert_array_equal(padded, image)


def test_pad_of_an_image_smaller_than_the_padding():
    padded, size = images.pad_to_multiple(np.full((1, 2, 3), 0.5, np.float32), 8)
    assert size == (1, 2)
    np.testing.assert_array_equal(padded, np.full((8, 8, 3), 0.5, np.float32))


# --- bands


@pytest.mark.parametrize(("height", "rows"), [(1, 4), (8, 4), (9, 4), (600, 256)])
def test_bands_are_all_rows_once_and_few_at_a_time(height, rows):
    made = list(images.bands(height, rows))
    assert [row for band in made for row in range(height)[band]] == list(range(height))
    assert all(band.stop - band.start <= rows and band.stop <= height for band in made)


# --- grid


RED = np.tile(np.uint8([255, 0, 0]), (10, 30, 1))
BLUE = np.tile(np.uint8([0, 0, 255]), (10, 30, 1))


def area(image, color):
    """Rows and columns (first, last) that a color fills, and whether it fills that rectangle."""
    ys, xs = np.nonzero((image == color).all(axis=-1))
    whole = len(ys) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)
    return ys.min(), ys.max(), xs.min(), xs.max(), whole


def test_as_batch_takes_one_or_several_bytes_or_floats():
    photos = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), np.uint8)
    for value, expected in (
        (photos, photos / 255),
        (photos[0], photos[:1] / 255),
        (photos / 255.0, photos / 255),
        ((photos[0] / 255).tolist(), photos[:1] / 255),
    ):
        batch = images.as_batch("picture", value)
        assert batch.dtype == np.float32
        np.testing.assert_allclose(batch, expected, rtol=1e-6)


def test_as_batch_takes_a_mask_beside_the_colors():
    rgba = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)
    np.testing.assert_allclose(images.as_batch("picture", rgba, channels=4), rgba[None] / 255, rtol=1e-6)
    with pytest.raises(UserError, match=r"^picture has shape \(3, 5, 3\): .*\[B, H, W, 4\], RGB and the mask"):
        images.as_batch("picture", rgba[..., :3], channels=4)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"shape \(\)"),
        (np.zeros((4, 4)), r"shape \(4, 4\)"),
        (np.zeros((4, 4, 4)), r"shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 4, 3)), r"shape \(0, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), int), "of type int64"),
        (np.full((4, 4, 3), 255.0), r"lies in \[255, 255\]"),
        (np.full((4, 4, 3), -0.1), r"lies in \[-0.1, -0.1\]"),
        (np.full((4, 4, 3), np.nan), "lies in"),
    ],
)
def test_as_batch_refuses_what_is_no_image(value, message):
    with pytest.raises(UserError, match=f"^picture .*{message}"):
        images.as_batch("picture", value)


def test_grid_places_pictures_between_white_gaps():
    image = images.grid([[RED, BLUE]], ["", ""], gap=5)
    assert image.dtype == np.float32 and image.shape == (5 + 0 + 5 + 10 + 5, 5 + 30 + 5 + 30 + 5, 3)
    assert area(image, [1, 0, 0]) == (10, 19, 5, 34, True)
    assert area(image, [0, 0, 1]) == (10, 19, 40, 69, True)
    assert ((image == 1).all(axis=-1).sum()) == image.shape[0] * image.shape[1] - 2 * 300


def test_grid_rows_and_zoom():
    image = images.grid([[RED], [BLUE]], [""], gap=2, zoom=3)
    assert image.shape == (2 + 0 + 2 + 30 + 2 + 30 + 2, 2 + 90 + 2, 3)
    assert area(image, [1, 0, 0]) == (4, 33, 2, 91, True)
    assert area(image, [0, 0, 1]) == (36, 65, 2, 91, True)


def test_grid_zoom_is_nearest():
    tiny = np.random.default_rng(0).integers(0, 256, (2, 2, 3), np.uint8)
    image = images.to_uint8(images.grid([[tiny]], [""], gap=0, zoom=4))
    np.testing.assert_array_equal(image, np.kron(tiny, np.ones((4, 4, 1), np.uint8)))


def test_grid_title_is_written_over_its_column_and_widens_it():
    plain = images.grid([[RED, BLUE]], ["", ""])
    titled = images.grid([[RED, BLUE]], ["", "a title longer than its picture"])
    assert titled.shape[1] > plain.shape[1] and titled.shape[0] > plain.shape[0]
    top, _, left, _, whole = area(titled, [0, 0, 1])
    assert whole and top > 20
    dark = np.nonzero((titled < 0.3).all(axis=-1))
    assert dark[0].size > 50 and dark[0].min() >= 8 and dark[0].max() < top  # whole, above the pictures
    assert 38 <= dark[1].min() < left and dark[1].max() > left + 30  # over the second column, to both sides


def test_grid_row_label_is_written_left_of_its_row():
    image = images.grid([[RED], [BLUE]], [""], row_labels=["", "second"])
    top, bottom, left, _, whole = area(image, [0, 0, 1])
    dark = np.nonzero((image < 0.3).all(axis=-1))
    assert whole and dark[0].size > 20
    assert dark[1].min() >= 8 and dark[1].max() < left
    assert dark[0].min() >= top - 4 and dark[0].max() <= bottom + 10


def test_grid_takes_floats_and_uneven_sizes():
    image = images.grid([[RED / 255, BLUE[:4, :6]]], ["", ""], gap=1)
    assert area(image, [1, 0, 0])[4] and area(image, [0, 0, 1])[:4] == (2, 5, 32, 37)


def test_grid_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="titles"):
        images.grid([[RED, BLUE], [RED]], ["a", "b"])
    with pytest.raises(ValueError, match="row labels"):
        images.grid([[RED], [BLUE]], ["a"], row_labels=["x"])


# --- imports


def test_images_needs_no_tensorflow():
    code = "import sys, codi_tf.io.images; assert not {'tensorflow', 'keras'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
