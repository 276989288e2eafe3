"""Arrays of images: written as PNG, converted, resized, padded, batched and placed on grids."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.io import images

COLOUR = np.arange(18, dtype=np.uint8).reshape(2, 3, 3) * 14  # [2, 3, 3]


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
    with pytest.raises(UserError, match="a.png: that is a folder"):
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


def test_grid_places_images_between_white_gaps():
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
    assert dark[0].size > 50 and dark[0].min() >= 8 and dark[0].max() < top  # whole, above the images
    assert 38 <= dark[1].min() < left and dark[1].max() > left + 30  # over the second column, to both sides


def test_grid_titles_of_several_lines_need_less_width_and_more_height():
    one = images.grid([[RED, BLUE]], ["", "a title, and its end"])
    two = images.grid([[RED, BLUE]], ["", "a title,\nand its end"])
    assert two.shape[1] < one.shape[1] and two.shape[0] > one.shape[0]
    top, *_ = area(two, [0, 0, 1])
    dark = np.nonzero((two < 0.3).all(axis=-1))[0]
    lines = np.unique(dark)
    assert lines.max() < top and (np.diff(lines) > 1).any()  # above the images, with a gap between the lines


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
