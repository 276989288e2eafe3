"""Files of depth maps: every format to the same numbers, holes filled by the rule, mistakes named in one line."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from codi_tf.core.errors import UserError
from codi_tf.io.depth_files import (
    as_gray_image,
    fill_holes,
    map_files,
    nearness,
    photo_files,
    read_depth,
    read_nearness,
    write_nearness,
)

RANDOM = np.random.default_rng(0)
BYTES = RANDOM.integers(0, 256, (6, 9), np.uint8)
WORDS = RANDOM.integers(0, 65536, (6, 9), np.uint16)
REAL = RANDOM.uniform(0.5, 80, (6, 9)).astype(np.float32)
NAN, INF = np.nan, np.inf


def one_line(error):
    return "\n" not in str(error.value)


def pfm(values, *, little=True, kind=b"Pf"):
    """The bytes of a .pfm file: the format's rows go from the bottom up."""
    height, width = values.shape[:2]
    header = kind + b"\n%d %d\n%.1f\n" % (width, height, -1 if little else 1)
    return header + values[::-1].astype("<f4" if little else ">f4").tobytes()


# --- formats


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
@pytest.mark.parametrize("values", [BYTES, WORDS], ids=["8 bits", "16 bits"])
def test_whole_numbers_keep_every_bit(tmp_path, suffix, values):
    path = tmp_path / f"map{suffix}"
    Image.fromarray(values).save(path)
    depth = read_depth(path)
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, values)


def test_real_numbers_in_a_tiff(tmp_path):
    Image.fromarray(REAL).save(tmp_path / "map.tif")
    np.testing.assert_array_equal(read_depth(tmp_path / "map.tif"), REAL)


def test_32_bit_whole_numbers(tmp_path):
    values = np.array([[0, 70000], [123456, 5]], np.int32)
    Image.fromarray(values).save(tmp_path / "map.tif")
    np.testing.assert_array_equal(read_depth(tmp_path / "map.tif"), values)


@pytest.mark.parametrize("little", [True, False])
def test_pfm(tmp_path, little):
    path = tmp_path / "map.pfm"
    path.write_bytes(pfm(np.where(REAL > 70, INF, REAL), little=little))
    np.testing.assert_array_equal(read_depth(path), np.where(REAL > 70, INF, REAL))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.uint16, np.int64, ">f4"])
@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1), (1, 6, 9)])
def test_arrays(tmp_path, dtype, shape):
    np.save(tmp_path / "map.npy", REAL.astype(dtype).reshape(shape))
    depth = read_depth(tmp_path / "map.npy")
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(depth, REAL.astype(dtype).astype(np.float32))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "LA", "1"])
def test_gray_in_other_modes(tmp_path, mode):
    gray = Image.fromarray(BYTES if mode != "1" else (BYTES // 128) * 255)
    gray.convert(mode).save(tmp_path / "map.png")
    expected = BYTES if mode != "1" else BYTES // 128
    np.testing.assert_array_equal(read_depth(tmp_path / "map.png"), expected)


def test_maps_are_turned_as_their_photos_are(tmp_path):
    image, exif = Image.fromarray(BYTES), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "map.png", exif=exif)
    np.testing.assert_array_equal(read_depth(tmp_path / "map.png"), np.rot90(BYTES, -1))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("map.png", None, "no such file"),
        ("map.npy", None, "no such file"),
        ("map.png", b"", "cannot read"),
        ("map.png", b"not a picture", "cannot read"),
        ("map.npy", b"not an array", "no array of numbers"),
        ("map.npy", b"", "no array of numbers"),
        ("map.pfm", pfm(REAL)[:-5], "cannot read"),
        ("map.npy", np.zeros((0, 5)), "is empty: 0x5"),
        ("map.npy", np.zeros((4, 5, 3)), r"shape \(4, 5, 3\): it must be \[H, W\]"),
        ("map.npy", np.zeros(5), r"shape \(5,\)"),
        ("map.npy", np.array([["a"]]), "of type <U1"),
        ("map.npy", np.array([[1j]]), "of type complex128"),
        ("map.npy", np.array([[None]]), "no array of numbers"),
    ],
)
def test_unreadable_files_are_an_error(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=message) as caught:
        read_depth(path)
    assert one_line(caught) and str(path) in str(caught.value)


def test_truncated_images_are_an_error(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 65536, (64, 64), np.uint16)).save(stream, "PNG")
    (tmp_path / "map.png").write_bytes(stream.getvalue()[:4000])
    with pytest.raises(UserError, match="cannot read depth map") as caught:
        read_depth(tmp_path / "map.png")
    assert one_line(caught)


def test_several_arrays_are_an_error(tmp_path):
    with open(tmp_path / "map.npy", "wb") as file:
        np.savez(file, a=REAL, b=REAL)
    with pytest.raises(UserError, match="several arrays"):
        read_depth(tmp_path / "map.npy")


@pytest.mark.parametrize(("place", "message"), [(0, "in color"), (3, "partly transparent")])
def test_colored_and_transparent_maps_are_an_error(tmp_path, place, message):
    pixels = np.repeat(BYTES[..., None], 4, axis=-1)
    pixels[..., 3] = 255
    pixels[2, 3, place] ^= 1
    Image.fromarray(pixels).save(tmp_path / "map.png")
    with pytest.raises(UserError, match=message) as caught:
        read_depth(tmp_path / "map.png")
    assert one_line(caught)


# --- nearness


def test_disparity_is_nearness_and_depth_its_inverse():
    np.testing.assert_array_equal(nearness(REAL, "disparity"), REAL)
    near = nearness(REAL, "depth")
    assert near.dtype == np.float32
    np.testing.assert_allclose(near, 1 / REAL.astype(np.float64), rtol=1e-7)


def test_what_is_unknown():
    values = [0, -1, NAN, INF, -INF, 4, 1e-300, 1e300]
    np.testing.assert_array_equal(nearness(values, "depth"), [NAN, NAN, NAN, NAN, NAN, 0.25, NAN, 0])
    np.testing.assert_array_equal(nearness(values, "disparity"), [0, -1, NAN, NAN, NAN, 4, 0, NAN])


@pytest.mark.parametrize("kind", ["metres", None, 3])
def test_another_kind_is_an_error(kind):
    with pytest.raises(UserError, match="kind must be disparity or depth"):
        nearness(REAL, kind)


# --- holes


def test_a_hole_is_as_far_as_the_farther_of_its_neighbors():
    near = [
        [5, NAN, NAN, 2, NAN, 7],
        [NAN, NAN, 3, NAN, NAN, NAN],
        [NAN, NAN, NAN, NAN, NAN, NAN],
        [NAN, NAN, NAN, NAN, NAN, NAN],
        [1, 4, 4, 9, NAN, 6],
    ]
    expected = [
        [5, 2, 2, 2, 2, 7],
        [3, 3, 3, 3, 3, 3],
        [1, 3, 3, 3, 3, 3],
        [1, 3, 3, 3, 3, 3],
        [1, 4, 4, 9, 6, 6],
    ]
    np.testing.assert_array_equal(fill_holes(np.float32(near)), expected)


def filled_by_loops(near):
    """The same rule, pixel by pixel."""
    filled = near.copy()
    for y, x in np.argwhere(np.isnan(near)):
        sides = [side[~np.isnan(side)] for side in (near[y, :x][::-1], near[y, x:])]
        nearest = [side[0] for side in sides if len(side)]
        if nearest:
            filled[y, x] = min(nearest)
    return filled


@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_holes_against_loops(share):
    near = np.where(RANDOM.uniform(size=(40, 30)) < share, NAN, RANDOM.normal(size=(40, 30))).astype(np.float32)
    near[0, 0] = 1
    filled = fill_holes(near)
    np.testing.assert_array_equal(filled, filled_by_loops(filled_by_loops(near).T).T)
    np.testing.assert_array_equal(filled[~np.isnan(near)], near[~np.isnan(near)])


def test_one_known_pixel_fills_a_map():
    near = np.full((5, 7), NAN, np.float32)
    near[3, 2] = 4
    np.testing.assert_array_equal(fill_holes(near), np.full((5, 7), 4))


# --- what can be used


def test_a_users_map_must_be_whole_and_a_measured_one_is_filled(tmp_path):
    holed = np.where(REAL > 60, NAN, REAL)
    np.save(tmp_path / "map.npy", holed)
    count = np.isnan(holed).sum()
    with pytest.raises(UserError, match=rf"map.npy is unknown .* in {count} of 54 pixels; fill them") as caught:
        read_nearness(tmp_path / "map.npy", "disparity")
    assert one_line(caught)
    np.testing.assert_array_equal(read_nearness(tmp_path / "map.npy", "disparity", fill=True), fill_holes(holed))


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (np.full((4, 4), NAN), "disparity", "unknown everywhere"),
        (np.zeros((4, 4)), "depth", "unknown everywhere"),
        (np.zeros((4, 4)), "disparity", "constant"),
        (np.full((4, 4), 3.5), "depth", "constant"),
    ],
)
def test_useless_maps_are_an_error(tmp_path, values, kind, message, fill):
    np.save(tmp_path / "map.npy", values)
    with pytest.raises(UserError, match=f"map.npy is {message}") as caught:
        read_nearness(tmp_path / "map.npy", kind, fill=fill)
    assert one_line(caught)


def test_what_is_written_is_read_again(tmp_path):
    write_nearness(tmp_path / "map.png", REAL)
    with Image.open(tmp_path / "map.png") as image:
        assert image.mode.startswith("I;16") and image.size == (9, 6)
    written = read_nearness(tmp_path / "map.png", "disparity")
    assert (written.min(), written.max()) == (0, 65535)
    np.testing.assert_allclose(written / 65535, as_gray_image(REAL)[..., 0], atol=0.51 / 65535)
    assert [file.name for file in tmp_path.iterdir()] == ["map.png"]


def test_what_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write") as caught:
        write_nearness(tmp_path / "file" / "map.png", REAL)
    assert one_line(caught)


# --- folders


def touch(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")


def test_photos_and_maps_of_a_folder(tmp_path):
    touch(
        tmp_path, "b.jpg", "a.PNG", "a.depth.npy", "b.depth.tif", "c.depth.png", "c.txt", "d.npy", ".b.depth.tif.1.tmp"
    )
    (tmp_path / "e.png").mkdir()
    assert {name: file.name for name, file in photo_files(tmp_path).items()} == {"a": "a.PNG", "b": "b.jpg"}
    maps = {name: file.name for name, file in map_files(tmp_path).items()}
    assert maps == {"a": "a.depth.npy", "b": "b.depth.tif", "c": "c.depth.png"}


@pytest.mark.parametrize("names", [("a.jpg", "a.png"), ("a.depth.png", "a.depth.npy", "a.jpg")])
def test_two_of_one_name_are_an_error(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match="have one name") as caught:
        photo_files(tmp_path), map_files(tmp_path)
    assert one_line(caught)


def test_folders_without_images_are_an_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        photo_files(tmp_path / "none")
    touch(tmp_path, "a.depth.png")
    with pytest.raises(UserError, match="no image in folder"):
        photo_files(tmp_path)


def test_neither_tensorflow_nor_keras_is_needed():
    code = "import sys, codi_tf.depth; sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
