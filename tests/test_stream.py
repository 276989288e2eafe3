"""Images read from disk when they are needed: the same windows as of photos in memory."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from numbered_images import S, marks, numbered_files, ramp, stream_of, take
from PIL import Image
from shards import encoded, new_image

from codi_tf import data
from codi_tf.core.errors import UserError
from codi_tf.data.decoding import EncodedImage, window_size
from codi_tf.data.permutation import permuted
from codi_tf.data.pipeline import REPLACED
from codi_tf.data.records import Unreadable
from codi_tf.io import images
from codi_tf.tasks import make_task

# --- which record


def test_an_epoch_has_every_image_once_in_an_order_of_its_own(tmp_path):
    stream = stream_of(tmp_path, numbered_files(12))
    epochs = marks(take(stream, 36)).reshape(3, 12)
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == list(range(12))
        assert list(epoch) == [permuted(i, 12, seed=0, epoch=number) for i in range(12)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    stream.seed = 1
    assert list(marks(take(stream, 12))) != list(epochs[0])
    assert len(stream) == 12 and stream.unreadable == []


def test_an_example_is_a_function_of_seed_and_number(tmp_path):
    options = {"augment": True, "recolor": True}
    straight = take(stream_of(tmp_path, numbered_files(5)), 14, **options)
    resumed = take(stream_of(tmp_path, numbered_files(5)), 5, start=9, **options)
    for key, value in resumed.items():
        np.testing.assert_array_equal(value, straight[key][9:])
    assert (straight["image"] != take(stream_of(tmp_path, numbered_files(5)), 14, seed=1, **options)["image"]).any()


def test_hosts_share_the_batches_of_one(tmp_path):
    stream, task = stream_of(tmp_path, numbered_files(7)), make_task("super_resolution")
    options = {"image_size": S, "seed": 3, "augment": False}
    whole = list(data.batches(stream, task, batch_size=6, **options).take(3).as_numpy_iterator())
    parts = [
        list(data.batches(stream, task, batch_size=3, shard=(i, 2), **options).take(3).as_numpy_iterator())
        for i in range(2)
    ]
    for k in range(3):
        for key in ("image", "condition"):
            np.testing.assert_array_equal(np.concatenate([part[k][key] for part in parts]), whole[k][key])


# --- which window


def draws(count, seed=0):
    """The numbers in [0, 1) that the examples of a pipeline are drawn with: float32 [count, 5]."""
    seeds = [tf.random.stateless_uniform([2, 2], [seed, i], None, None, tf.int32)[0] for i in range(count)]
    return np.stack([tf.random.stateless_uniform([5], one).numpy() for one in seeds])


def test_windows_are_cut_where_the_seed_says(tmp_path):
    photo = new_image(5, 40, 56)
    found = take(stream_of(tmp_path, {"a.png": encoded(photo)}), 48, augment=True)["image"]
    corners, sides, mirrored = [], [], 0
    for u, window in zip(draws(48), found, strict=True):
        side = round(S * 2.5 ** float(u[1]))
        top, left = int(u[2] * (40 - side + 1)), int(u[3] * (56 - side + 1))
        cut = photo[top : top + side, left : left + side].astype(np.float64)
        weights = np.zeros((S, side))  # how much of each pixel lies within each pixel of the crop
        for row in range(S):
            low, high = row * side / S, (row + 1) * side / S
            weights[row] = np.clip(np.minimum(np.arange(side) + 1, high) - np.maximum(np.arange(side), low), 0, None)
        weights /= weights.sum(axis=1, keepdims=True)
        expected = np.einsum("yi,xj,ijc->yxc", weights, weights, cut) / 127.5 - 1
        np.testing.assert_allclose(window, expected[:, ::-1] if u[4] < 0.5 else expected, atol=1e-4)
        corners.append((top, left))
        sides.append(side)
        mirrored += u[4] < 0.5
    assert min(sides) < 20 and max(sides) > 35 and 12 <= mirrored <= 36
    assert np.ptp(corners, axis=0).min() > 15


@pytest.mark.parametrize("size", [(40, 56), (16, 400), (1000, 1200), (900, 30)])
def test_sides_are_distributed_as_of_photos_in_memory(size):
    """For the same draw u, the share of the image that a window shows is that of `Photos`."""
    photo = np.zeros((*size, 3), np.uint8)
    photo[..., 0] = np.linspace(0, 250, size[0])[:, None]
    drawn = data.Photos({"a": photo}).drawer(image_size=S, augment=False, recolor=False)
    longest = max(1.0, max(size) / 800)
    for k in range(40):
        seed = tf.constant([k, 5])
        u = tf.random.stateless_uniform([5], seed).numpy()
        side, _ = window_size(float(u[1]), size, S)
        shown = 127.5 * (drawn(tf.constant(0, tf.int64), seed)["image"].numpy()[:, 0, 0] + 1)
        in_memory = (shown[-1] - shown[0]) / (S - 1) * S * size[0] / 250
        assert abs(side - in_memory) <= 0.03 * in_memory + 2.5 * longest


def test_images_that_are_too_small(tmp_path):
    members = numbered_files(40) | {"small.png": encoded(ramp(15, 60, 99))}
    stream = stream_of(tmp_path, members, max_unreadable=0.1)
    assert 99 not in marks(take(stream, 60))
    assert stream.unreadable == [f"{tmp_path / 'a.tar'}: small: it is 15x60, smaller than image_size 16"]
    with pytest.raises(Unreadable, match="15x16, smaller than image_size 16"):
        window_size(0.0, (15, 16), 16)


def test_a_large_jpeg_is_decoded_small(tmp_path):
    """What the decoder of JPEG leaves out does not change the window: against decoding the whole image."""
    y, x = np.mgrid[:1200, :1600]
    smooth = np.stack([127 + 120 * np.sin(y / 90), 127 + 120 * np.cos(x / 70), (x + y) / 11], axis=-1).astype(np.uint8)
    payload = encoded(smooth, "JPEG", quality=95)
    assert EncodedImage(payload).shrunk(1.9).size == (1600, 1200)
    assert EncodedImage(payload).shrunk(4.0).size == (400, 300)
    assert EncodedImage(payload).shrunk(7.9).size == (400, 300)
    jpeg, png = (stream_of(tmp_path, {f"a.{kind}": p}) for kind, p in (("jpg", payload), ("png", encoded(smooth))))
    (tmp_path / "png").mkdir()
    jpeg = stream_of(tmp_path, {"a.jpg": payload})
    png = stream_of(tmp_path / "png", {"a.png": encoded(smooth)})
    difference = take(jpeg, 24)["image"] - take(png, 24)["image"]
    assert abs(difference).mean() < 0.01 and abs(difference).max() < 0.06


# --- what an image may be


def modes():
    rgb = new_image(0)
    alpha = np.concatenate([rgb, new_image(1)[..., :1]], axis=-1)
    deep = np.random.default_rng(2).integers(0, 65536, (20, 24), np.uint16)
    lying = Image.Exif()
    lying[0x0112] = 6
    yield "rgb", Image.fromarray(rgb), "PNG", {}
    yield "gray", Image.fromarray(rgb[..., 0]), "PNG", {}
    yield "alpha", Image.fromarray(alpha), "PNG", {}
    yield "deep", Image.fromarray(deep), "PNG", {}
    yield "palette", Image.fromarray(rgb).quantize(16), "PNG", {}
    yield "bits", Image.fromarray(rgb[..., 0]).convert("1"), "PNG", {}
    yield "cmyk", Image.fromarray(rgb).convert("CMYK"), "JPEG", {}
    yield "lying", Image.fromarray(rgb), "JPEG", {"exif": lying}
    yield "float", Image.fromarray(rgb[..., 0].astype(np.float32) / 255), "TIFF", {}
    yield "webp", Image.fromarray(rgb), "WEBP", {"lossless": True}


@pytest.mark.parametrize(("image", "kind", "options"), [mode[1:] for mode in modes()], ids=[m[0] for m in modes()])
def test_any_mode_is_read_as_images_reads_it(tmp_path, image, kind, options):
    path = tmp_path / f"a.{kind.lower()}"
    image.save(path, kind, **options)
    expected = images.to_uint8(images.read_image(path))
    opened = EncodedImage(path.read_bytes())
    assert opened.size == expected.shape[:2]
    np.testing.assert_array_equal(images.rgb_pixels(opened.shrunk(1.0)), expected)


def test_values_of_unknown_range():
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 20), 7.0, np.float32)).save(buffer, "TIFF")
    with pytest.raises(UserError, match="mode F with values 7.0 to 7.0, not 0 to 1"):
        images.rgb_pixels(EncodedImage(buffer.getvalue()).shrunk(1.0))


# --- texts, and what lies beside


def test_texts(tmp_path):
    members = numbered_files(40)
    for i in range(0, 40, 2):
        members[f"{i:03}.txt"] = f"a  picture\nof {i} \u00e4 ".encode()
    for i in range(1, 37, 2):
        members[f"{i:03}.json"] = json.dumps({"caption": f"number {i}", "width": 3}).encode()
    members["037.json"], members["038.txt"], members["039.json"] = b"{}", b"", b"[1]"
    members = dict(sorted(members.items()))
    stream = stream_of(tmp_path, members, max_unreadable=0.1)
    assert stream.provides == ("prompt", REPLACED)
    examples = take(stream, 40)
    for mark, text in zip(marks(examples), examples["prompt"], strict=True):
        expected = f"a picture of {mark} \u00e4" if mark % 2 == 0 else f"number {mark}"
        assert text.decode() == ("" if mark in (37, 38) else expected)
    assert 39 not in marks(examples)
    assert stream.unreadable == [f"{tmp_path / 'a.tar'}: 039: its caption is [1], not a text"]
    batch = next(iter(data.batches(stream, None, image_size=S, batch_size=4, seed=0, tokenizer=tokens)))
    assert batch["tokens"].shape == (4, 3) and (batch["tokens"][:, 0] >= 0).numpy().all()


def tokens(texts):
    return np.array([[len(text), text.count("a"), 0] for text in texts])


@pytest.mark.parametrize(
    ("name", "payload", "said"),
    [
        ("000.txt", b"\xff", "its text is damaged"),
        ("000.json", b'{"caption": 3}', "its caption is 3, not a text"),
        ("000.json", b'{"caption"', "its text is damaged"),
    ],
)
def test_bad_texts_are_counted(tmp_path, name, payload, said):
    members = dict(sorted((numbered_files(3) | {name: payload}).items()))
    stream = stream_of(tmp_path, members, max_unreadable=0.4)
    found = take(stream, 3)
    assert 0 not in marks(found) and stream.look_at(0, 3 * found[REPLACED].any()) == found[REPLACED].sum()
    assert len(stream.unreadable) == 1 and "a.tar: 000: " + said in stream.unreadable[0]


def test_image_before_an_edit_and_depth_show_the_same_window(tmp_path):
    """Sizes agree, and so do the windows, also for JPEG beside PNG."""
    y, x = np.mgrid[:90, :120]
    smooth = np.stack([2 * y, 2 * x, y + x], axis=-1).astype(np.uint8)
    depth = (100 * y + x).astype(np.uint16)
    members = {
        "a.jpg": encoded(smooth, "JPEG", quality=98, subsampling=0),
        "a.source.png": encoded(255 - smooth),
        "a.depth.png": encoded(depth),
        "a.txt": b"invert it",
    }

    def examples_of(condition_key):
        stream = stream_of(tmp_path, members, condition_key=condition_key)
        assert stream.provides == ((condition_key,) if condition_key != "image" else ()) + ("prompt", REPLACED)
        return take(stream, 12, augment=True)

    before, deep, alone = examples_of("source"), examples_of("depth"), examples_of("image")
    assert before["source"].shape == (12, S, S, 3) and deep["depth"].shape == (12, S, S, 1)
    np.testing.assert_array_equal(before["image"], deep["image"])
    np.testing.assert_allclose(before["image"], -before["source"], atol=0.05)
    np.testing.assert_allclose(alone["image"], before["image"], atol=0.05)
    rows, columns = (127.5 * (1 - before["source"][..., k]) / 2 for k in (0, 1))
    np.testing.assert_allclose(deep["depth"][..., 0], 100 * rows + columns, rtol=0, atol=1.0)
    assert deep["depth"].dtype == np.float32
    example = stream_of(tmp_path, members, condition_key="source").example(
        0, np.array([0, 0.99, 0, 0, 0], np.float32), S
    )
    assert example["image"].shape == example["source"].shape == (40, 40, 3)  # nor is one of them shrunk while decoded


def test_neighbours_of_another_size_or_missing(tmp_path):
    members = {
        "a.png": encoded(ramp(30, 30, 1)),
        "a.source.png": encoded(ramp(30, 31, 1)),
        "b.png": encoded(ramp(30, 30, 2)),
        "c.png": encoded(ramp(30, 30, 3)),
        "c.source.png": encoded(ramp(30, 30, 3)),
    }
    assert set(marks(take(stream_of(tmp_path, members), 9))) == {1, 2, 3}
    stream = stream_of(tmp_path, members, condition_key="source", max_unreadable=0.7)
    assert set(marks(take(stream, 9))) == {3}
    found = sorted(line.partition(": ")[2] for line in stream.unreadable)
    assert found == ["a: its source is 30x31, the image 30x30", "b: it has no source"]
